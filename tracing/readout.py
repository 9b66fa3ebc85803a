"""From a map of differences to an answer: where a map is read, its peak, and what the peak means.

The map lives on the patch grid with placement ``patch`` (the answer is a displacement from patch
to patch) and, with placement ``query``, on the grid the model was read on: cells for ``all``,
patches standing for their first cell for ``first`` (the first code sees nothing else).
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig


def to_map(
    values: Float[Tensor, "*batch model_rows model_cols"], grid: PatchGrid, cfg: TracerConfig
) -> Float[Tensor, "*batch rows cols"]:
    """Values on the model's read-out grid -> the map: placement ``patch`` averages each patch."""
    if cfg.read_out == "all" and cfg.placement == "patch":
        return rearrange(grid.to_patches(values).mean(-1), "... (r c) -> ... r c", r=grid.rows)
    return values


def hidden_map(
    reveal: Bool[Tensor, "*masks patches"], grid: PatchGrid, cfg: TracerConfig
) -> Bool[Tensor, "*masks rows cols"]:
    """Map positions that a reveal mask leaves to be predicted."""
    return patches_to_map(~reveal, grid, cfg)


def patches_to_map(
    patches: Bool[Tensor, "*batch patches"], grid: PatchGrid, cfg: TracerConfig
) -> Bool[Tensor, "*batch rows cols"]:
    """What holds of patches, said of the positions of the map."""
    if cfg.read_out == "all" and cfg.placement == "query":
        return grid.to_cells(repeat(patches, "... p -> ... p k", k=grid.codes_per_patch))
    return rearrange(patches, "... (r c) -> ... r c", r=grid.rows)


def map_positions(grid: PatchGrid, cfg: TracerConfig) -> Float[Tensor, "rows cols 2"]:
    """The (x, y) px that each map position stands for."""
    if cfg.placement == "patch":
        return rearrange(grid.patch_centers(), "(r c) xy -> r c xy", r=grid.rows)
    centers = grid.cell_centers()
    return centers if cfg.read_out == "all" else centers[:: grid.side, :: grid.side]


def find_peak(
    maps: Float[Tensor, "*batch rows cols"],
    can_win: Bool[Tensor, "*can rows cols"],
    positions: Float[Tensor, "rows cols 2"],
    centroid: bool,
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """Position (px) and height of each map's peak among the positions that can win.

    ``centroid`` moves the position to the map-weighted mean of the 3x3 window round the arg-max;
    positions outside the grid or unable to win weigh nothing.
    """
    rows, cols = can_win.shape[-2:]
    flat = maps.masked_fill(~can_win, -torch.inf).flatten(-2)
    height, index = flat.max(-1)
    positions = positions.to(maps)
    at_peak = positions.flatten(0, 1)[index]
    if not centroid:
        return at_peak, height
    row, col = index // cols, index % cols
    near_row = (torch.arange(rows, device=maps.device) - row[..., None]).abs() <= 1
    near_col = (torch.arange(cols, device=maps.device) - col[..., None]).abs() <= 1
    window = near_row[..., :, None] & near_col[..., None, :] & can_win
    weights = torch.where(window, maps, 0.0)
    # Offsets from the peak, not absolute positions: a lone peak then keeps its exact place.
    offsets = positions - at_peak[..., None, None, :]
    shift = (weights[..., None] * offsets).sum((-3, -2))
    total = weights.sum((-2, -1))
    return at_peak + shift / torch.where(total > 0, total, 1.0)[..., None], height


def answer(
    maps: Float[Tensor, "*batch points rows cols"],
    can_win: Bool[Tensor, "*can rows cols"],
    points: Float[Tensor, "*batch points 2"],
    grid: PatchGrid,
    cfg: TracerConfig,
) -> tuple[Float[Tensor, "*batch points 2"], Float[Tensor, "*batch points"]]:
    """Where each query went, (x, y) px, and the height of its peak.

    Placement ``patch``: query + (peak - center of the query's patch). ``query``: the peak itself.
    A map without any difference says nothing, and the answer is then zero displacement with
    peak 0, not the arg-max of a flat map, which would be its top-left corner.
    """
    peak_xy, height = find_peak(maps, can_win, map_positions(grid, cfg), cfg.peak == "centroid")
    if cfg.placement == "patch":
        source = grid.patch_centers().to(maps)[grid.patch_index(points)]
        xy = points.to(maps) + (peak_xy - source)
    else:
        xy = peak_xy
    silent = (height <= 0)[..., None]  # -inf where nothing could win
    return torch.where(silent, points.to(maps), xy).to(points), height.clamp_min(0)
