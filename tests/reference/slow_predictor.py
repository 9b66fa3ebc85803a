"""The slow, obvious twins of lras.predictor: one patch at a time, no cache, no batch."""

import torch
from torch import Tensor

from lras.grid import PatchGrid
from lras.predictor import FramePredictor
from lras.sequence import Sequence, concat, frame_groups
from lras.vocab import Vocab


def read_patch_by_full_forward(
    net: FramePredictor,
    codes0: Tensor,
    codes1: Tensor,
    order0: Tensor,
    revealed: Tensor,
    patch: int,
    grid: PatchGrid,
) -> Tensor:
    """Logits (codes, vocab) of one patch of sample 0: a plain causal pass over what is given."""
    vocab = Vocab(net.cfg.num_codes, grid.num_patches)
    asked = torch.tensor([[patch]])
    seq = concat(
        frame_groups(codes0, order0, 0, vocab, pointers=net.cfg.frame0_pointers),
        frame_groups(codes1, revealed, 1, vocab),
        frame_groups(codes1, asked, 1, vocab),
    )
    seq = Sequence(*(part[:, :-1] for part in seq))  # the last code is never given
    hidden, _ = net.encode(seq, grid)
    answers = hidden[0, -codes1.shape[-1] :]
    return answers @ net.head_weight()[: net.cfg.num_codes].T


def sequence_by_hand(
    codes0: list[list[int]],
    codes1: list[list[int]],
    order0: list[int],
    order1: list[int],
    num_codes: int,
    frame0_pointers: bool,
) -> list[tuple[int, int, int, int]]:
    """(token, frame, patch, slot) of every position, written out with loops."""
    num_patches, out = len(codes0), []
    for frame, codes, order in ((0, codes0, order0), (1, codes1, order1)):
        for patch in order:
            if frame == 1 or frame0_pointers:
                out.append((num_codes + frame * num_patches + patch, frame, patch, 0))
            for slot, code in enumerate(codes[patch], start=1):
                out.append((code, frame, patch, slot))
    return out
