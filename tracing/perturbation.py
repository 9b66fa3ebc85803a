"""The tracer: a small bump planted in frame 0, and the codes it changes."""

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import Placement, Rounding


def tracer_centers(
    points: Float[Tensor, "*batch 2"], grid: PatchGrid, placement: Placement
) -> Float[Tensor, "*batch 2"]:
    """Where the tracer of each query is planted: on the query, or amid the patch that holds it."""
    if placement == "query":
        return points
    return grid.patch_centers().to(points)[grid.patch_index(points)]


def add_tracer(
    frame0: Float[Tensor, "*batch 3 height width"],
    centers: Float[Tensor, "*batch 2"],
    sigma_px: float,
    amplitude: float,
    round: Rounding = "none",
) -> Float[Tensor, "*batch 3 height width"]:
    """Frame 0 plus a Gaussian bump on every channel, clipped to [0, 1].

    ``amplitude`` 1.0 is 255 in 8-bit units. ``truncate_uint8`` also cuts the bump down to whole
    8-bit levels, as the published code does by storing the sum as uint8.

    Source:
        Kim et al. 2025, arXiv:2507.09082.
    """
    height, width = frame0.shape[-2:]
    x = torch.arange(width, device=frame0.device) + 0.5 - centers[..., :1]
    y = torch.arange(height, device=frame0.device) + 0.5 - centers[..., 1:]
    row, col = (-(d.square()) / (2 * sigma_px**2) for d in (y, x))
    bump = amplitude * (row[..., :, None] + col[..., None, :]).exp()
    frames = (frame0 + bump.unsqueeze(-3)).clamp(0.0, 1.0)
    if round == "truncate_uint8":
        # The change is cut, not the frame: without a bump, frames of finer levels stay as they are.
        # A level that float32 holds a hair too low must not fall to the one below.
        levels = ((frames - frame0) * 255 + 1e-3).floor()
        frames = (frame0 + levels / 255).clamp_min(0.0)
    return frames


def touched_cells(
    frames: Float[Tensor, "*batch 3 height width"],
    perturbed: Float[Tensor, "*batch 3 height width"],
    grid: PatchGrid,
    seen_px: int | None = None,
) -> Bool[Tensor, "*batch code_rows code_cols"]:
    """Cells whose code a local encoder may change: those that see a changed pixel.

    ``seen_px``: side of what a code sees; None = its cell, with residual codes it is a patch.
    """
    px = seen_px or grid.code_px
    changed, each = (frames != perturbed).any(-3), px // grid.code_px
    seen = rearrange(changed, "... (r y) (c x) -> ... r c (y x)", y=px, x=px).any(-1)
    return repeat(seen, "... r c -> ... (r i) (c j)", i=each, j=each)


def isolate(
    codes0: Int[Tensor, "*batch code_rows code_cols"],
    perturbed: Int[Tensor, "*batch code_rows code_cols"],
    source: Int[Tensor, "*batch"],
    grid: PatchGrid,
) -> Int[Tensor, "*batch code_rows code_cols"]:
    """Perturbed codes inside the source patch (flat index), clean codes everywhere else."""
    is_source = torch.arange(grid.num_patches, device=source.device) == source[..., None]
    patches = torch.where(is_source[..., None], grid.to_patches(perturbed), grid.to_patches(codes0))
    return grid.to_cells(patches)


def count_flipped(
    codes0: Int[Tensor, "*batch code_rows code_cols"],
    perturbed: Int[Tensor, "*batch code_rows code_cols"],
) -> Int[Tensor, "*batch"]:
    """Number of codes in which two frames differ."""
    return reduce((codes0 != perturbed).long(), "... r c -> ...", "sum")
