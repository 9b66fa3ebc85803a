"""The published sequence: which patches are revealed, in which order they stand, what is scored.

Randomness follows the published code number for number: each draw starts again from the seed, so
a clean and a perturbed run share it. Nothing touches the global random states.
"""

import random
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lras.sequence import Sequence

IGNORED = -1  # target of a token that is not scored


class Orders(NamedTuple):
    """What a seed decides about one pair of frames; patches are flat indices, row-major."""

    order0: Int[Tensor, " patches"]
    order1: Int[Tensor, " patches"]  # revealed patches first
    revealed: Int[Tensor, " revealed"]  # in the order they stand in order1
    hidden: Int[Tensor, " hidden"]


def reveal_list(num_patches: int, hidden_share: float, seed: int) -> list[int]:
    """The patches of frame 1 that are shown: ``int(num_patches * (1 - hidden_share))`` of them.

    Raises:
        ValueError: ``hidden_share`` is not in [0, 1].
    """
    if not 0 <= hidden_share <= 1:
        raise ValueError(f"hidden_share={hidden_share} is not in [0, 1]; try 0.9.")
    count = int(num_patches * (1.0 - hidden_share))
    return random.Random(seed).sample(range(num_patches), count)


def permutations(num_patches: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders of both frames before anything is revealed: two draws of numpy's legacy stream."""
    stream = np.random.RandomState(seed)
    return stream.permutation(num_patches), stream.permutation(num_patches)


def published_orders(num_patches: int, hidden_share: float, seed: int) -> Orders:
    """Both permutations, and the revealed patches brought to the front of frame 1's.

    Revealed patches keep the relative order of the permutation; the order of the list is lost. For
    who calls the library: tracers draw masks and orders of their own.
    """
    order0, order1 = permutations(num_patches, seed)
    shown = np.isin(order1, reveal_list(num_patches, hidden_share, seed))
    revealed, hidden = order1[shown], order1[~shown]
    parts = (order0, np.concatenate([revealed, hidden]), revealed, hidden)
    return Orders(*(torch.from_numpy(part) for part in parts))


def targets(seq: Sequence) -> Int[Tensor, "batch seq"]:
    """The tokens that are scored, ``IGNORED`` elsewhere: contents of frame 1, not yet shifted."""
    scored = (seq.frame == 1) & (seq.slot > 0)
    return torch.where(scored, seq.tokens, IGNORED)
