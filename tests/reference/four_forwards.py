"""Published read-outs without a cache: every step is one more whole causal pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from lras.grid import PatchGrid
from lras.predictor import FramePredictor

Run = Callable[[Tensor, Tensor, int], Tensor]  # tokens, places, n -> logits of the last n tokens
Steps = list[tuple[Tensor, Tensor]]  # logits over the whole vocabulary, greedy tokens


@torch.no_grad()
def whole_pass(predictor: FramePredictor, tokens: Tensor, places: Tensor, last: int) -> Tensor:
    x = predictor.token_table(tokens) + predictor.place_table(places)
    for block in predictor.blocks:
        x, _ = block(x, None)
    return predictor.final_norm(x)[:, -last:] @ predictor.head.weight.T


def group(codes: Tensor, patch: int, frame: int, num_codes: int, grid: PatchGrid):
    """Tokens and places of one patch."""
    slots, patches = 1 + grid.codes_per_patch, grid.num_patches
    tokens = [num_codes + frame * patches + patch, *codes[patch].tolist()]
    return tokens, [(frame * patches + patch) * slots + slot for slot in range(slots)]


def pack(codes0, codes1, order0, order1, num_codes: int, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Tokens and places of frame 0, then of the patches ``order1`` of frame 1; a batch of one."""
    tokens, places = [], []
    for frame, (codes, order) in enumerate(((codes0, order0), (codes1, order1))):
        for patch in order[0].tolist():
            some, where = group(codes[0], patch, frame, num_codes, grid)
            tokens, places = tokens + some, places + where
    return torch.tensor([tokens]), torch.tensor([places])


def four_forwards(run: Run, codes0, codes1, order0, revealed, asked, num_codes, grid) -> Steps:
    """Patch-parallel prediction: the sequence grows by all asked patches at once."""
    tokens, places = pack(codes0, codes1, order0, revealed, num_codes, grid)
    added = num_codes + grid.num_patches + asked
    place = (grid.num_patches + asked) * (1 + grid.codes_per_patch)
    steps = []
    for code in range(grid.codes_per_patch):
        tokens = torch.cat([tokens, added], dim=1)
        places = torch.cat([places, place + code], dim=1)
        logits = run(tokens, places, asked.shape[1])
        added = logits.argmax(-1)
        steps.append((logits, added))
    return steps


def token_by_token(run: Run, codes0, codes1, order0, revealed, asked, num_codes, grid) -> Steps:
    """Greedy roll-out: the sequence grows by one token."""
    tokens, places = pack(codes0, codes1, order0, revealed, num_codes, grid)
    steps = []
    for patch in asked[0].tolist():
        _, where = group(codes1[0], patch, 1, num_codes, grid)
        for slot, place in enumerate(where):
            logits = run(tokens, places, 1)
            pointer = torch.tensor([[num_codes + grid.num_patches + patch]])
            added = pointer if slot == 0 else logits.argmax(-1)
            steps.append((logits, added))
            tokens = torch.cat([tokens, added], dim=1)
            places = torch.cat([places, torch.tensor([[place]])], dim=1)
    return steps
