"""Test-time augmentation: one question in several guises, and the mean of their maps.

A scene that is mirrored, or whose color channels trade places, moves as the scene it was made of.
Its codes are others, though, and so are a small model's mistakes: in the mean they fade, and what
all guises agree on stays.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig, Traces
from tracing.inputs import check_question
from tracing.occlusion import is_visible
from tracing.readout import answer
from tracing.search import within_window

SALT = 2**50  # the reveal masks of two guises are different draws


@dataclass(frozen=True)
class Guise:
    """Mirror along x, then along y, then trade x for y; and an order of the color channels."""

    mirror_x: bool
    mirror_y: bool
    transpose: bool
    channels: tuple[int, int, int]

    def image(self, frames: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 h w"]:
        return self.raster(frames[:, list(self.channels)]).contiguous()

    def raster(self, values: Tensor) -> Tensor:
        """Values on a raster whose last two axes are rows and columns."""
        values = values.flip(self._mirrored_axes())
        return values.mT if self.transpose else values

    def undo(self, values: Tensor) -> Tensor:
        """The inverse of ``raster``."""
        values = values.mT if self.transpose else values
        return values.flip(self._mirrored_axes())

    def points(
        self, points: Float[Tensor, "*n 2"], frame_hw: tuple[int, int]
    ) -> Float[Tensor, "*n 2"]:
        height, width = frame_hw
        x, y = points.unbind(-1)
        x, y = (width - x if self.mirror_x else x), (height - y if self.mirror_y else y)
        return torch.stack([y, x] if self.transpose else [x, y], dim=-1)

    def _mirrored_axes(self) -> list[int]:
        return [axis for axis, mirrored in ((-1, self.mirror_x), (-2, self.mirror_y)) if mirrored]


GUISES = (
    Guise(False, False, False, (0, 1, 2)),  # the frames as they are
    Guise(True, False, False, (1, 2, 0)),
    Guise(False, True, False, (2, 0, 1)),
    Guise(True, True, False, (0, 2, 1)),
    Guise(False, False, True, (2, 1, 0)),  # from here on, frames must be square
    Guise(True, False, True, (1, 0, 2)),
    Guise(False, True, True, (1, 2, 0)),
    Guise(True, True, True, (2, 0, 1)),
)
UPRIGHT = sum(not guise.transpose for guise in GUISES)


def check_augmentations(num: int, cfg: TracerConfig) -> None:
    """Raise ValueError for a number that is not from 1 to 8, and for maps that cannot be mirrored
    (placement=query) or averaged (search=coarse_to_fine)."""
    if num not in range(1, len(GUISES) + 1):  # what is no whole number is not, either
        raise ValueError(
            f"augmentations={num} is not from 1 to {len(GUISES)}; use 1 for the frames as they "
            f"are, {len(GUISES)} for the best answer."
        )
    if num > 1 and (cfg.placement != "patch" or cfg.search != "full"):
        raise ValueError(
            f"augmentations={num} needs placement=patch and search=full, got "
            f"placement={cfg.placement} and search={cfg.search}; use these, or augmentations=1."
        )


class Augmented:
    """A tracer of one scale that asks ``tracer`` about ``num`` guises of the frames.

    Every guise draws its own masks, ``num_masks`` of them, so the work is ``num`` times as much. A
    patch is averaged over the guises in which some mask hid it. ``flipped_codes`` is the most that
    a guise's tracer flipped, ``attempt`` that of the frames as they are.

    Raises:
        ValueError: what ``check_augmentations`` refuses; frames to be transposed that are oblong.
    """

    needs_model = True

    def __init__(
        self, tracer: Callable[..., Traces], cfg: TracerConfig, num: int, patch_px: int
    ) -> None:
        check_augmentations(num, cfg)
        self.tracer, self.cfg, self.patch_px = tracer, cfg, patch_px
        self.guises, self.name = GUISES[:num], tracer.name

    @torch.no_grad()
    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
        keep_hidden: Bool[Tensor, "batch patches"] | None = None,
        near: Float[Tensor, "batch points 2"] | None = None,
    ) -> Traces:
        """Trace; ``keep_hidden`` and ``near`` are those of ``TwoBranchTracer``."""
        check_question(frame0, frame1, points)
        hw = (frame0.shape[-2], frame0.shape[-1])
        if len(self.guises) > UPRIGHT and hw[0] != hw[1]:
            raise ValueError(
                f"augmentations={len(self.guises)} transposes frames, which must be square, got "
                f"{hw[0]}x{hw[1]} px; use augmentations={UPRIGHT} at most."
            )
        grid = PatchGrid(*hw, self.patch_px, self.patch_px)
        near = points if near is None else near
        # subtle: a point on the border of two patches would change patches in the mirror
        asked = grid.patch_centers().to(points)[grid.patch_index(points)]
        every = []
        for number, guise in enumerate(self.guises):
            kept = None if keep_hidden is None else self._mirrored(keep_hidden, guise.raster, grid)
            every.append(
                self.tracer(
                    guise.image(frame0),
                    guise.image(frame1),
                    guise.points(asked, hw),
                    seed + number * SALT,
                    keep_hidden=kept,
                    near=guise.points(near, hw),
                )
            )
        known = torch.stack(
            [
                ~self._mirrored(traces.never_hidden, guise.undo, grid)
                for traces, guise in zip(every, self.guises, strict=True)
            ]
        )
        parts = [guise.undo(t.maps) for t, guise in zip(every, self.guises, strict=True)]
        weight = rearrange(known, "n b (r c) -> n b 1 r c", r=grid.rows)
        # A map is 0 where no mask hid the patch, so what counts is only how many guises know it.
        maps = torch.stack(parts).sum(0) / weight.sum(0).clamp_min(1)
        may_win = within_window(near, grid, self.cfg.window_px)
        may_win = rearrange(may_win & known.any(0)[:, None], "b n (r c) -> b n r c", r=grid.rows)
        xy, peak = answer(maps, may_win, points, grid, self.cfg)
        return replace(
            every[0],
            xy=xy,
            visible=is_visible(peak, self.cfg.occlusion_threshold),
            peak_kl=peak,
            maps=maps,
            flipped_codes=torch.stack([traces.flipped_codes for traces in every]).amax(0),
            never_hidden=~known.any(0),
        )

    def _mirrored(
        self, patches: Bool[Tensor, "batch patches"], how: Callable, grid: PatchGrid
    ) -> Bool[Tensor, "batch patches"]:
        return how(rearrange(patches, "b (r c) -> b r c", r=grid.rows)).flatten(1)
