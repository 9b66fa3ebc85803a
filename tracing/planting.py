"""Plant a tracer for every query, and again in another way where it changed no code.

A white bump on a white wall changes nothing, so the model would be asked nothing. Then a dark bump
is tried, and after it a bump twice as wide, white and dark.
"""

from typing import NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import Attempt, TracerConfig
from tracing.perturbation import (
    add_tracer,
    count_flipped,
    isolate,
    touched_cells,
    tracer_centers,
)
from tracing.protocol import NextFrameModel

ATTEMPTS = get_args(Attempt)
NONE = ATTEMPTS.index("none")
WIDER = 2.0
TRIES = (("bright", 1.0, 1.0), ("dark", -1.0, 1.0), ("wide", 1.0, WIDER), ("wide", -1.0, WIDER))


class Planted(NamedTuple):
    """Frame 0 as the model sees it with each tracer in it.

    ``attempt`` is the place in ``ATTEMPTS`` of the tracer that flipped codes.
    """

    codes: Int[Tensor, "batch points code_rows code_cols"]
    flipped: Int[Tensor, "batch points"]
    attempt: Int[Tensor, "batch points"]


@torch.no_grad()
def plant(
    model: NextFrameModel,
    frame0: Float[Tensor, "batch 3 height width"],
    codes0: Int[Tensor, "batch code_rows code_cols"],
    points: Float[Tensor, "batch points 2"],
    cfg: TracerConfig,
    max_batch: int = 64,
) -> Planted:
    """Codes of frame 0 with each point's tracer in it; ``max_batch`` frames are encoded at a time.

    With ``cfg.retry`` a tracer that flips nothing is planted as ``TRIES`` says, the first that
    flips a code is kept.
    """
    grid = PatchGrid(*frame0.shape[-2:], model.patch_px, model.code_px)
    seen_px = getattr(model, "painted_px", model.code_px)
    batch, num_points = points.shape[:2]
    codes = codes0[:, None].expand(-1, num_points, -1, -1).flatten(0, 1).clone()
    flipped = codes.new_zeros(len(codes))
    attempt = torch.full_like(flipped, NONE)
    centers = tracer_centers(points, grid, cfg.placement).flatten(0, 1)
    source = grid.patch_index(points).flatten()
    pair = torch.arange(batch, device=codes.device).repeat_interleave(num_points)
    for name, sign, widen in TRIES if cfg.retry else TRIES[:1]:
        silent = (flipped == 0).nonzero()[:, 0]
        for row in silent.split(max_batch):
            frames, clean = frame0[pair[row]], codes0[pair[row]]
            bump = cfg.sigma_px * widen, cfg.amplitude * sign
            with_tracer = add_tracer(frames, centers[row], *bump, cfg.round)
            # subtle: another batch size may round differently and flip a code far from the
            # tracer; codes are local, so where no pixel changed the clean code holds.
            touched = touched_cells(frames, with_tracer, grid, seen_px)
            changed = torch.where(touched, model.encode(with_tracer), clean)
            codes[row] = isolate(clean, changed, source[row], grid) if cfg.isolated else changed
            flipped[row] = count_flipped(clean, codes[row])
            attempt[row[flipped[row] > 0]] = ATTEMPTS.index(name)
    shape = (batch, num_points)
    return Planted(
        codes.unflatten(0, shape), flipped.unflatten(0, shape), attempt.unflatten(0, shape)
    )
