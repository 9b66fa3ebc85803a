"""Figures of the tracer on an exact model of a known motion: seconds, no weights."""

import math

import torch

from benchmarks.claim import Figure
from data.types import PointPairs
from tracing.benchmarks.base import evaluate, readout_floor
from tracing.ensemble import ZoomConfig
from tracing.kl_tracer import KLTracer
from tracing.oracle import MatchingOracle, ShiftOracle
from tracing.trace import TracerConfig
from tracing.tracers import kl_tracer

GEOMETRIES = ((64, 4, 4), (128, 8, 4), (256, 8, 4))  # frame, patch, cell in px: nano, micro, small
SHIFTS = ((0, 0), (2, 0), (0, -4), (-3, 1))  # code cells (right, down)
NUM_POINTS = 8


def worst_error(placement: str, side: int, patch_px: int, code_px: int) -> Figure:
    """Largest |trace - truth| along an axis over translations and points, in code cells.

    Half a cell is as close as a read-out at cell centers can promise.
    """
    reach = 4 * code_px  # points stay this far from the border, so that none leaves the frame
    # Eighths of a pixel are exact in float32: an error of half a cell stays exactly that.
    generator = torch.Generator().manual_seed(0)
    shape = (1, NUM_POINTS, 2)
    points = torch.randint(8 * reach, 8 * (side - reach), shape, generator=generator) / 8
    errors = []
    for shift in SHIFTS:
        model = ShiftOracle(shift, patch_px, code_px)
        frame0, frame1 = model.frames(side, side, seed=0)
        traces = KLTracer(model, TracerConfig(placement=placement))(
            frame0[None], frame1[None], points
        )
        truth = points + code_px * points.new_tensor(shift)
        errors.append((traces.xy - truth).abs().max() / code_px)
    worst = torch.stack(errors).max().item()  # a NaN anywhere comes out as NaN
    return Figure(worst, f"{len(SHIFTS)} translations, {NUM_POINTS} points each")


class _Recorder(ShiftOracle):
    """Writes down every reveal mask it is asked about."""

    def __init__(self, *sizes) -> None:
        super().__init__(*sizes)
        self.reveals = []

    def frame1_logits(self, codes0, codes1, reveal, order0, order1, read_out):
        self.reveals.append(reveal.clone())
        return super().frame1_logits(codes0, codes1, reveal, order0, order1, read_out)


def masks_that_differ() -> Figure:
    """Reveal masks that change when frame 1 does: they must be drawn without a look at it."""
    points = torch.tensor([[[18.0, 22.0], [41.0, 33.0], [30.0, 50.0]]])
    still, moved = _Recorder((0, 0), 4, 4), _Recorder((3, -2), 4, 4)
    for model in (still, moved):
        frame0, frame1 = model.frames(64, 64, seed=0)
        KLTracer(model, TracerConfig())(frame0[None], frame1[None], points, seed=3)
    pairs = list(zip(still.reveals, moved.reveals, strict=True))
    differ = sum(not torch.equal(one, two) for one, two in pairs)
    return Figure(differ if pairs else math.nan, f"{len(pairs)} batches of masks")


def zoomed_oracle_epe() -> tuple[float, float]:
    """EPE at two scales on scenes that slide by parts of a cell, and the floor of one scale, px.

    The floor is that of a perfect detector which can only name a patch (``readout_floor``).
    """
    model, side, num_pairs = MatchingOracle(4, 4), 64, 8
    generator = torch.Generator().manual_seed(0)
    shifts = 8 * torch.rand(num_pairs, 2, generator=generator) - 4  # up to a patch each way
    frames = [
        model.sliding_frames(side, side, tuple(shift), seed)
        for seed, shift in enumerate(shifts.tolist())
    ]
    frame0, frame1 = (torch.stack(each) for each in zip(*frames, strict=True))
    points = 12 + (side - 24) * torch.rand(num_pairs, NUM_POINTS, 2, generator=generator)
    seen = torch.ones(num_pairs, NUM_POINTS, dtype=torch.bool)
    pairs = PointPairs(frame0, frame1, points, points + shifts[:, None], seen, seen, "sliding")
    tracer = kl_tracer(model, TracerConfig(peak="argmax"), zoom=ZoomConfig(scales=2))
    (row,) = evaluate([tracer], pairs, seed=0, patch_px=4)
    return row.epe, readout_floor(pairs, 4)
