"""Multi-scale tracing: the whole frames first, then enlarged crops round the last estimate.

The mask ensemble of one scale (each patch averaged over the masks that hid it) is the business of
the tracer inside.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.coords import rescale_points
from lras.grid import PatchGrid
from tracing.config import Traces
from tracing.crops import View, resize, whole
from tracing.inputs import check_question

CutFrom = Literal["native", "previous"]
OcclusionFrom = Literal["first", "last"]
SALT = 2**40  # the reveal masks of two scales are different draws
HAIR_PX = 1e-3
SMALLEST_PX = 2  # least side of a crop, in native pixels


@dataclass(frozen=True, kw_only=True)
class ZoomConfig:
    """Scale s > 0 looks at crops with sides ``factor**s`` of the frames', enlarged."""

    scales: int = 1  # the whole frames are the first
    factor: float = 0.5
    num_masks: int | None = None  # of scales > 0; null = as many as at the first
    # At scales > 0, patches with a pixel nearer than this to the current estimate are never
    # revealed; px of the enlarged crop. null or 0: any patch may be.
    keep_hidden_px: float | None = 8.0
    # At scales > 0, only patches this near the current estimate, per axis, can win; px of the crop.
    window_px: float | None = None
    # previous: a crop is cut from the one before, so nothing gets sharper after the second; that
    # one is the largest square in the frame, or of ``factor`` where the frame is square itself.
    cut_from: CutFrom = "native"
    eight_bit: bool = False  # stretched frames and crops are rounded to whole 8-bit levels
    occlusion_from: OcclusionFrom = "first"  # the scale whose peak says whether a point is visible
    max_crops: int = 32  # pairs of crops that are traced at a time

    def __post_init__(self) -> None:
        for field, literal in {"cut_from": CutFrom, "occlusion_from": OcclusionFrom}.items():
            if (got := getattr(self, field)) not in get_args(literal):
                raise ValueError(f"{field}={got!r} is not known; use one of {get_args(literal)}.")
        if self.scales < 1:
            raise ValueError(f"scales={self.scales}; use 1 for the whole frames, 3 for two zooms.")
        if not 0 < self.factor < 1:
            raise ValueError(
                f"factor={self.factor} is not between 0 and 1; a crop must be smaller than the "
                "one before and hold something (try 0.5)."
            )
        if self.num_masks is not None and self.num_masks < 1:
            raise ValueError(f"num_masks={self.num_masks}; use at least one, or null for as first.")
        if self.keep_hidden_px is not None and not self.keep_hidden_px >= 0:
            raise ValueError(
                f"keep_hidden_px={self.keep_hidden_px}; use a distance in px, or null for none."
            )
        if self.max_crops < 1:
            raise ValueError(f"max_crops={self.max_crops}; at least one is traced at a time.")


class Answers(NamedTuple):
    """Where queries are after the last scale."""

    xy: Float[Tensor, "*n 2"]  # px of the native frame 1
    visible: Bool[Tensor, "*n"]  # of the last scale, as is the peak
    peak_kl: Float[Tensor, "*n"]
    kept_hidden_share: Float[Tensor, "*n"]


class Zoom:
    """A tracer of frames of any size round two tracers of frames as a model takes them.

    ``on_whole`` is asked about the whole frames, stretched to ``hw`` (None: the model takes them as
    they are), ``on_crops`` about every crop, with one query each. Both frames' crops have one size,
    frame 0's round the query, frame 1's round the current estimate, moved together where they would
    leave the frame. The crop's answer replaces the estimate, unless the tracer flipped no code
    there or the map was silent.

    In the answer, ``visible`` and the ``peak_kl`` it was judged by are as ``cfg`` says. ``maps``,
    ``flipped_codes``, ``attempt`` and ``never_hidden`` are those of the first scale, which alone
    shows the whole frame.
    """

    needs_model = True
    takes_native = True

    def __init__(
        self,
        on_whole: Callable[..., Traces],
        on_crops: Callable[..., Traces],
        patch_px: int,
        cfg: ZoomConfig | None = None,
        hw: tuple[int, int] | None = None,
    ) -> None:
        self.on_whole, self.on_crops, self.patch_px = on_whole, on_crops, patch_px
        self.cfg, self.hw, self.name = cfg or ZoomConfig(), hw, on_whole.name
        if hw is not None:
            self.input_hw = hw  # says that the patches of ``never_hidden`` are of resized frames
            self.name = f"{self.name}@{hw[0]}x{hw[1]}"

    def at(self, hw: tuple[int, int]) -> "Zoom":
        """The same tracer for a model that is given ``hw``, whatever the size of the frames."""
        return Zoom(self.on_whole, self.on_crops, self.patch_px, self.cfg, hw)

    @torch.no_grad()
    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        check_question(frame0, frame1, points)
        native = (frame0.shape[-2], frame0.shape[-1])
        hw, sizes = self.hw or native, self.crop_sizes(native)
        asked = rescale_points(points, native, hw)
        first = self.on_whole(*(self._stored(resize(f, hw)) for f in (frame0, frame1)), asked, seed)
        estimate = rescale_points(first.xy, hw, native)
        first = replace(first, xy=estimate)
        if not sizes or not points.numel():
            return first
        batch, num = points.shape[:2]
        pair = torch.arange(batch, device=points.device).repeat_interleave(num)
        rows = torch.arange(len(pair), device=points.device).split(self.cfg.max_crops)
        query, estimate = points.flatten(0, 1), estimate.flatten(0, 1)
        parts = [
            self._refined((frame0, frame1), pair[n], query[n], estimate[n], hw, sizes, seed)
            for n in rows
        ]
        columns = (torch.cat(column) for column in zip(*parts, strict=True))
        last = Answers(*(column.unflatten(0, (batch, num)) for column in columns))
        judged = last if self.cfg.occlusion_from == "last" else first
        hides = bool(self.cfg.keep_hidden_px)
        return replace(
            first,
            xy=last.xy,
            visible=judged.visible,
            peak_kl=judged.peak_kl,
            kept_hidden_share=last.kept_hidden_share if hides else None,
        )

    def crop_sizes(self, native: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of the crops of scales 1, 2, ... in px of what they are cut from.

        Raises:
            ValueError: one would be a speck of the native frame.
        """
        cfg, height, width = self.cfg, *native
        hw = self.hw or native
        shares = [cfg.factor**scale for scale in range(1, cfg.scales)]
        sizes = [(round(height * share), round(width * share)) for share in shares]
        speck = [min(size) for size in sizes]
        if cfg.cut_from == "previous" and sizes:
            again = (round(hw[0] * cfg.factor), round(hw[1] * cfg.factor))
            largest = (min(native),) * 2 if height != width else sizes[0]
            sizes = [largest, *[again] * (cfg.scales - 2)]
            speck = [int(min(largest) * cfg.factor**zoom) for zoom in range(len(sizes))]
        for scale, side in enumerate(speck, start=1):
            if side < SMALLEST_PX:
                raise ValueError(
                    f"scales={cfg.scales} with factor={cfg.factor} makes crops of {side} px of "
                    f"frames of {height}x{width} px, less than {SMALLEST_PX}; use at most "
                    f"scales={scale}."
                )
        return sizes

    def _refined(
        self,
        frames: tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch 3 height width"]],
        pair: Int[Tensor, " n"],
        query: Float[Tensor, "n 2"],
        estimate: Float[Tensor, "n 2"],
        hw: tuple[int, int],
        sizes: list[tuple[int, int]],
        seed: int,
    ) -> Answers:
        """Queries of pairs ``pair``, all in px of the native frames, through all scales > 0."""
        native = (frames[0].shape[-2], frames[0].shape[-1])
        source = [View(each, pair, whole(len(pair), native, each.device)) for each in frames]
        shares = []
        for scale, size in enumerate(sizes, start=1):
            centers = query, estimate
            if self.cfg.cut_from == "native":
                centers = alike(query, estimate, size, native)
            zoomed = [view.zoom(at, size, hw) for view, at in zip(source, centers, strict=True)]
            seen = [replace(view, images=self._stored(view.images)) for view in zoomed]
            keep = self._near(seen[1].see(estimate), hw)
            shares.append(keep.double().mean(1))
            traces = self.on_crops(
                *(view.images for view in seen),
                seen[0].see(query)[:, None],
                seed + scale * SALT,
                keep_hidden=keep if self.cfg.keep_hidden_px else None,
                near=seen[1].see(estimate)[:, None],
            )
            found = ((traces.flipped_codes > 0) & (traces.peak_kl > 0))[:, 0]
            answer = seen[1].place(traces.xy[:, 0])
            estimate = torch.where(found[:, None], answer, estimate)
            if self.cfg.cut_from == "previous":
                source = seen
        share = torch.stack(shares).mean(0)
        return Answers(estimate, traces.visible[:, 0], traces.peak_kl[:, 0], share)

    def _near(
        self, estimate: Float[Tensor, "n 2"], hw: tuple[int, int]
    ) -> Bool[Tensor, "n patches"]:
        """Patches of the crop with a pixel nearer than ``keep_hidden_px`` to the estimate."""
        grid = PatchGrid(*hw, self.patch_px, self.patch_px)
        apart = (grid.patch_centers().to(estimate) - estimate[:, None]).abs()
        gap = (apart - self.patch_px / 2).clamp_min(0).norm(dim=-1)
        return gap < (self.cfg.keep_hidden_px or 0)

    def _stored(
        self, frames: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, "n 3 height width"]:
        return (frames * 255).round() / 255 if self.cfg.eight_bit else frames


def alike(
    query: Float[Tensor, "n 2"],
    estimate: Float[Tensor, "n 2"],
    crop_hw: tuple[int, int],
    frame_hw: tuple[int, int],
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Centers of two crops inside the frame that hold the query and the estimate at one place.

    In the crops there is then no motion left but the error of the estimate; were each crop pushed
    into the frame by itself, all of the motion would be back at the frame's border. As near to the
    middle of the crops as can be; points farther apart than a crop can shift are as near as can be.
    """
    query, estimate = query.double(), estimate.double()
    size = query.new_tensor(crop_hw[::-1])
    room = query.new_tensor(frame_hw[::-1]) - size
    lowest, highest = torch.maximum(query, estimate) - room, torch.minimum(query, estimate)
    inside = torch.minimum(torch.maximum(size / 2, lowest), highest)

    def center(point: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        # subtle: motions of half a pixel are common; a hair less, and rounding noise decides no tie
        corner = (point - inside - HAIR_PX).round()
        # whole pixels must not push the point out of its own crop
        corner = torch.maximum(torch.minimum(corner, point.floor()), (point - size).ceil())
        return corner + size / 2

    return center(query), center(estimate)
