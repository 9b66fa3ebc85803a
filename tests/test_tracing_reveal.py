"""Reveal masks: exact ratio, seeded, blind to everything but the seed."""

import pytest
import torch

from tracing.reveal import draw_masks, masks_of_pairs


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


def kept(patches, count, seed=0):
    drawn = torch.randperm(patches, generator=torch.Generator().manual_seed(seed))
    return torch.isin(torch.arange(patches), drawn[:count])


@pytest.mark.parametrize("count", [1, 20, 48])
def test_patches_kept_hidden_are_never_revealed_and_others_are_in_their_place(count):
    keep_hidden = kept(64, count)
    masks = draw_masks(64, 30, 0.25, 3, keep_hidden)
    assert not masks.reveal[:, keep_hidden].any()
    assert masks.reveal.sum(-1).tolist() == [16] * 30
    free = draw_masks(64, 30, 0.25, 3)
    assert torch.equal(masks.order0, free.order0) and torch.equal(masks.order1, free.order1)
    # What was revealed and may be, still is.
    assert not (free.reveal & ~keep_hidden & ~masks.reveal).any()
    assert not torch.equal(free.reveal, masks.reveal)


def test_keeping_nothing_hidden_changes_nothing():
    free, nothing = (
        draw_masks(64, 5, 0.25, 3, keep) for keep in (None, torch.zeros(64, dtype=torch.bool))
    )
    assert torch.equal(free.reveal, nothing.reveal)


@pytest.mark.parametrize("count, fits", [(48, True), (49, False)])
def test_keeping_too_many_hidden_is_refused(count, fits):
    if fits:
        assert draw_masks(64, 1, 0.25, 0, kept(64, count)).reveal.sum() == 16
        return
    with pytest.raises(ValueError, match="reveals 16 patches but only 15 are not kept hidden"):
        draw_masks(64, 1, 0.25, 0, kept(64, count))


def test_pairs_that_keep_the_same_hidden_have_the_same_masks():
    keep_hidden = torch.stack([kept(64, 20), kept(64, 20, seed=1), kept(64, 20)])
    masks = masks_of_pairs(3, 64, 4, 0.25, 5, keep_hidden)
    assert masks.reveal.shape == masks.order0.shape == masks.order1.shape == (3, 4, 64)
    for pair in range(3):
        alone = draw_masks(64, 4, 0.25, 5, keep_hidden[pair])
        for field in ("reveal", "order0", "order1"):
            assert torch.equal(getattr(masks[pair], field), getattr(alone, field))
    assert torch.equal(masks.reveal[0], masks.reveal[2])
    assert not torch.equal(masks.reveal[0], masks.reveal[1])


def test_pairs_without_anything_kept_share_the_masks_of_one():
    masks, one = masks_of_pairs(3, 64, 4, 0.25, 5), draw_masks(64, 4, 0.25, 5)
    for field in ("reveal", "order0", "order1"):
        assert torch.equal(getattr(masks, field), getattr(one, field).expand(3, -1, -1))
