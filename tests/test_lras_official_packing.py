"""The published orders: the very numbers of numpy's and Python's global streams."""

import random

import numpy as np
import pytest
import torch

from lras.official.packing import IGNORED, permutations, published_orders, reveal_list, targets
from lras.sequence import two_frames
from lras.vocab import Vocab

# ruff: noqa: NPY002  the published code draws from the global stream


def test_both_permutations_are_two_draws_after_one_seed():
    order0, order1 = permutations(1024, 48)
    np.random.seed(48)
    assert np.array_equal(order0, np.random.permutation(1024))
    assert np.array_equal(order1, np.random.permutation(1024))


def test_the_reveal_list_is_a_draw_of_python_and_its_length_is_cut_down():
    random.seed(48)
    assert reveal_list(1024, 0.9, 48) == random.sample(range(1024), 102)
    assert len(reveal_list(1024, 0.5, 0)) == 512
    assert reveal_list(1024, 1.0, 0) == [] and len(reveal_list(1024, 0.0, 0)) == 1024
    with pytest.raises(ValueError, match=r"hidden_share=90.0 is not in \[0, 1\]"):
        reveal_list(1024, 90.0, 0)


def test_the_global_state_of_numpy_is_left_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    published_orders(64, 0.9, 0)
    assert np.random.get_state()[1].tolist() == before


def test_revealed_patches_come_first_and_keep_the_order_of_the_permutation():
    orders, shuffled = published_orders(64, 0.75, 3), permutations(64, 3)[1].tolist()
    shown = reveal_list(64, 0.75, 3)
    assert sorted(orders.revealed.tolist()) == sorted(shown)
    assert orders.revealed.tolist() == [p for p in shuffled if p in shown]
    assert orders.hidden.tolist() == [p for p in shuffled if p not in shown]
    assert torch.equal(orders.order1, torch.cat([orders.revealed, orders.hidden]))
    assert orders.order0.tolist() == permutations(64, 3)[0].tolist()


def test_only_contents_of_frame_1_are_scored():
    codes = torch.arange(4).view(1, 2, 2)
    order = torch.tensor([[1, 0]])
    seq = two_frames(codes, codes, order, order, Vocab(4, 2), frame0_pointers=True)
    assert seq.tokens.tolist() == [[5, 2, 3, 4, 0, 1, 7, 2, 3, 6, 0, 1]]
    skip = IGNORED
    assert targets(seq).tolist() == [[skip] * 6 + [skip, 2, 3, skip, 0, 1]]
