"""Reveal masks: exact ratio, seeded, blind to everything but the seed."""

import pytest
import torch

from tracing.reveal import draw_masks


@pytest.mark.parametrize("patches, ratio, count", [(256, 0.25, 64), (1024, 0.1, 102), (9, 0.0, 0)])
def test_every_mask_reveals_the_exact_share(patches, ratio, count):
    masks = draw_masks(patches, 5, ratio, seed=0)
    assert masks.reveal.sum(-1).tolist() == [count] * 5


def test_orders_are_permutations_of_all_patches():
    masks = draw_masks(64, 3, 0.25, seed=0)
    for order in (*masks.order0, *masks.order1):
        assert order.sort().values.tolist() == list(range(64))
    assert not torch.equal(masks.order0, masks.order1)


def test_seed_decides_and_global_state_does_not():
    torch.manual_seed(1)
    first = draw_masks(64, 3, 0.25, seed=5)
    torch.manual_seed(2)
    again, other = draw_masks(64, 3, 0.25, seed=5), draw_masks(64, 3, 0.25, seed=6)
    assert torch.equal(first.reveal, again.reveal) and torch.equal(first.order1, again.order1)
    assert not torch.equal(first.reveal, other.reveal)


def test_drawing_more_masks_keeps_the_first_ones():
    few, many = draw_masks(64, 2, 0.25, seed=5), draw_masks(64, 8, 0.25, seed=5)
    assert torch.equal(few.reveal, many.reveal[:2]) and torch.equal(few.order0, many.order0[:2])


def test_masks_differ_and_hide_every_patch_now_and_then():
    reveal = draw_masks(64, 200, 0.25, seed=0).reveal
    share = reveal.double().mean(0)
    assert share.min() > 0.1 and share.max() < 0.4


def test_revealing_everything_is_refused():
    with pytest.raises(ValueError, match="at least one must stay hidden"):
        draw_masks(4, 1, 0.9, seed=0)
