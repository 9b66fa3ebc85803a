"""The slow, obvious twin of the engine: one sequence, one mask that says which token sees which.

Two full passes for each query and reveal mask. Shares with the engine the drawn masks, the planted
codes and the groups, so that both lay frame 0 out alike.
"""

import torch
from torch import Tensor

from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from lras.sequence import concat, frame_groups
from tracing.config import TracerConfig
from tracing.layout import make_groups
from tracing.reveal import Masks

# What stands in the sequence, in order, and what each part sees of the others and of itself.
SEES = {
    "after": {
        "rest": ("rest",),
        "tail": ("rest", "tail"),
        "shown": ("rest", "tail", "shown"),
        "asked": ("rest", "tail", "shown", "asked"),
    },
    "before": {
        "rest": ("rest",),
        "shown": ("rest", "shown"),
        "tail": ("rest", "shown", "tail"),
        "asked": ("rest", "shown", "tail", "asked"),
    },
    "clean": {
        "rest": ("rest",),
        "clean tail": ("rest", "clean tail"),
        "shown": ("rest", "clean tail", "shown"),
        "tail": ("rest", "tail"),
        "asked": ("rest", "tail", "shown", "asked"),
    },
}


def slow_maps(
    model: NextFrame,
    codes0: Tensor,
    codes1: Tensor,
    planted: Tensor,
    masks: Masks,
    cfg: TracerConfig,
    max_group: int = 64,
) -> Tensor:
    """KL (points, patches, codes read) of one pair, in nats; mean over the masks that hid it."""
    rows, cols = codes0.shape[1:]
    px = model.code_px
    grid = PatchGrid(rows * px, cols * px, model.patch_px, px)
    before, after = grid.to_patches(codes0[0]), grid.to_patches(planted)
    changed = (after != before).any(-1)
    num_revealed = int(masks.reveal[0].sum())
    codes = grid.codes_per_patch if cfg.read_out == "all" else 1
    maps = torch.zeros(len(planted), grid.num_patches, codes, dtype=torch.float64)
    for group in make_groups(changed, masks.order0[0], grid, num_revealed, max_group):
        for point in group.points.tolist():
            count = torch.zeros(grid.num_patches, 1)
            for reveal, order1 in zip(masks.reveal, masks.order1, strict=True):
                shown = torch.tensor([p for p in order1.tolist() if reveal[p]], dtype=torch.long)
                asked = torch.tensor([p for p in order1.tolist() if not reveal[p]])
                parts = {"rest": group.rest, "tail": group.tail, "shown": shown, "asked": asked}
                clean, perturbed = (
                    _answers(model, grid, before, own, codes1, parts, cfg)
                    for own in (before, after[point])
                )
                maps[point, asked] += _divergence(clean, perturbed, cfg.direction)
                count[asked] += 1
            maps[point] /= count.clamp_min(1)
    return maps


def _answers(
    model: NextFrame,
    grid: PatchGrid,
    clean0: Tensor,
    own0: Tensor,
    codes1: Tensor,
    parts: dict[str, Tensor],
    cfg: TracerConfig,
) -> Tensor:
    """Logits (asked, codes read, vocab) of a branch that sees ``own0`` in the tail."""
    net, sees = model.predictor, SEES[cfg.revealed]
    vocab = net.cfg.vocab(grid)
    read = grid.codes_per_patch if cfg.read_out == "all" else 1
    codes1 = grid.to_patches(codes1[0])
    pieces, part_of, patch_of = [], [], []
    for part in sees:
        frame = 1 if part in ("shown", "asked") else 0
        codes = {"rest": clean0, "clean tail": clean0, "tail": own0}.get(part, codes1)
        if part == "asked":
            codes = codes[:, : read - 1]
        patches = parts[part.removeprefix("clean ")]
        pointers = frame == 1 or net.cfg.frame0_pointers
        piece = frame_groups(codes[None], patches[None], frame, vocab, pointers)
        pieces.append(piece)
        part_of += [part] * piece.tokens.shape[1]
        patch_of += piece.patch[0].tolist()
    length = len(part_of)
    mask = torch.zeros(length, length, dtype=torch.bool)
    for i in range(length):
        for j in range(i + 1):
            mask[i, j] = part_of[j] in sees[part_of[i]]
            if part_of[i] == part_of[j] == "asked":
                mask[i, j] &= patch_of[i] == patch_of[j]
    hidden = _full_pass(model, concat(*pieces), mask, grid)
    asked = hidden[0, -len(parts["asked"]) * read :]
    logits = asked @ net.head_weight()[: net.cfg.num_codes].T
    return logits.view(len(parts["asked"]), read, -1)


def _full_pass(model: NextFrame, seq: Tensor, mask: Tensor, grid: PatchGrid) -> Tensor:
    net = model.predictor
    x, rotation = net.embed(seq, grid), net.rotation(seq, grid)
    for block in net.blocks:
        q, k, v = block.attention.project(block.attention_norm(x), rotation)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        x = x + block.attention.merge(scores.softmax(-1) @ v, rotation)
        x = x + block.mlp(block.mlp_norm(x))
    return net.final_norm(x)


def _divergence(clean: Tensor, perturbed: Tensor, direction: str) -> Tensor:
    p, q = clean.double().log_softmax(-1), perturbed.double().log_softmax(-1)
    forth, back = (p.exp() * (p - q)).sum(-1), (q.exp() * (q - p)).sum(-1)
    ways = {"clean_perturbed": forth, "perturbed_clean": back, "symmetric": (forth + back) / 2}
    return ways[direction]
