"""Groups, orders and targets, against sequences written out by hand."""

import pytest
import torch
from reference.slow_predictor import sequence_by_hand

from lras.sequence import content_rows, random_orders, two_frames
from lras.vocab import Vocab


def test_the_published_vocabulary_has_67584_ids():
    vocab = Vocab(65_536, 1024)
    assert (vocab.pointers0, vocab.pointers1, vocab.size) == (65_536, 66_560, 67_584)


@pytest.mark.parametrize("frame0_pointers", [True, False])
@pytest.mark.parametrize("codes", [1, 4])
def test_a_sequence_is_what_loops_would_write(frame0_pointers, codes):
    generator = torch.Generator().manual_seed(0)
    codes0, codes1 = torch.randint(0, 50, (2, 1, 6, codes), generator=generator)
    order0, order1 = random_orders(1, 6, generator), random_orders(1, 6, generator)
    seq = two_frames(codes0, codes1, order0, order1, Vocab(50, 6), frame0_pointers)
    expected = sequence_by_hand(
        codes0[0].tolist(),
        codes1[0].tolist(),
        order0[0].tolist(),
        order1[0].tolist(),
        num_codes=50,
        frame0_pointers=frame0_pointers,
    )
    assert list(zip(*(part[0].tolist() for part in seq), strict=True)) == expected


def test_every_order_is_a_permutation_and_a_seed_fixes_it():
    first, again = (random_orders(3, 10, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first.sort(dim=1).values == torch.arange(10)).all()
    assert len({tuple(order) for order in first.tolist()}) == 3


def test_each_scored_row_is_the_token_before_its_content():
    generator = torch.Generator().manual_seed(0)
    codes0, codes1 = torch.randint(0, 50, (2, 2, 6, 4), generator=generator)
    orders = random_orders(2, 6, generator), random_orders(2, 6, generator)
    seq = two_frames(codes0, codes1, *orders, Vocab(50, 6), frame0_pointers=False)
    index = torch.arange(seq.tokens.shape[1]).expand_as(seq.tokens)[..., None].float()
    rows, targets = content_rows(index, seq.tokens, patches=6, codes=4)
    position = rows[:, 0].long().view(2, -1)
    assert torch.equal(torch.gather(seq.tokens, 1, position + 1).flatten(), targets)
    assert (torch.gather(seq.frame, 1, position) == 1).all()
    scored = torch.gather(codes1, 1, orders[1][..., None].expand(-1, -1, 4))
    assert torch.equal(targets.view(2, 6, 4), scored)
