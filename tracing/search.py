"""Which patches of frame 1 a query asks: all, those near it, or few at first and then round peaks.

Random access lets a model be asked anything in any number. ``CoarseToFine`` asks one patch of every
square of four, then the neighbors of the highest, until those of the highest of all are known.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import Search

CANDIDATES = 4  # peaks that are looked round at once
ROUNDS = 8  # after the lattice, at most; the last ones only follow a ridge


def within_window(
    points: Float[Tensor, "batch points 2"], grid: PatchGrid, window_px: float | None
) -> Bool[Tensor, "batch points patches"]:
    """Patches whose center is within ``window_px`` of the query along both axes; None = all.

    The patch that holds the query is always among them.
    """
    if window_px is None:
        shape = (*points.shape[:2], grid.num_patches)
        return torch.ones(shape, dtype=torch.bool, device=points.device)
    away = (grid.patch_centers().to(points) - points[:, :, None]).abs().amax(-1)
    own = F.one_hot(grid.patch_index(points), grid.num_patches).bool()
    return (away <= window_px) | own


class Full:
    """Every patch that may win, at once. ``next`` says round by round which patches to ask."""

    def __init__(self, may_win: Bool[Tensor, "groups queries patches"], grid: PatchGrid) -> None:
        self.may_win = may_win

    def next(
        self,
        found: Float[Tensor, "groups queries patches"],
        looked: Bool[Tensor, "groups queries patches"],
    ) -> Bool[Tensor, "groups queries patches"] | None:
        """Patches to ask now, given what was ``found`` where one ``looked``; None = all done."""
        return None if looked.any() or not self.may_win.any() else self.may_win


class CoarseToFine:
    """A lattice, then round the ``CANDIDATES`` highest, then round the highest till it stays so."""

    def __init__(self, may_win: Bool[Tensor, "groups queries patches"], grid: PatchGrid) -> None:
        self.may_win, self.grid, self.rounds = may_win, grid, 0

    def next(
        self,
        found: Float[Tensor, "groups queries patches"],
        looked: Bool[Tensor, "groups queries patches"],
    ) -> Bool[Tensor, "groups queries patches"] | None:
        """As that of ``Full``."""
        self.rounds += 1
        if self.rounds == 1:
            asked = lattice(self.may_win, self.grid)
        elif self.rounds > 1 + ROUNDS:
            return None
        else:
            count = CANDIDATES if self.rounds == 2 else 1
            asked = around_highest(found, looked, count, self.grid) & self.may_win & ~looked
        return asked if asked.any() else None


SEARCHES: dict[Search, type[Full] | type[CoarseToFine]] = {
    "full": Full,
    "coarse_to_fine": CoarseToFine,
}


def lattice(
    may_win: Bool[Tensor, "*batch patches"], grid: PatchGrid
) -> Bool[Tensor, "*batch patches"]:
    """One patch of every square of 2x2 that has any: top left, else across, else beside, below."""
    row, col = _rows_and_cols(grid, may_win.device)
    square = (row // 2) * ((grid.cols + 1) // 2) + col // 2
    rank = torch.tensor([[0, 2], [3, 1]], device=row.device)[row % 2, col % 2]
    taken = torch.where(may_win, rank, 4)
    squares = square.expand_as(taken)
    size = (*taken.shape[:-1], int(square.max()) + 1)
    first = torch.full(size, 4, device=row.device).scatter_reduce(-1, squares, taken, "amin")
    return may_win & (taken == first.gather(-1, squares))


def around_highest(
    found: Float[Tensor, "*batch patches"],
    looked: Bool[Tensor, "*batch patches"],
    count: int,
    grid: PatchGrid,
) -> Bool[Tensor, "*batch patches"]:
    """The 3x3 patches round each of the ``count`` highest that were looked at."""
    top = found.masked_fill(~looked, -torch.inf).topk(min(count, grid.num_patches), dim=-1)
    peaks = torch.zeros_like(looked).scatter(-1, top.indices, top.values > -torch.inf)
    maps = rearrange(peaks.flatten(0, -2).float(), "n (r c) -> n 1 r c", r=grid.rows)
    return F.max_pool2d(maps, 3, stride=1, padding=1).flatten(1).view_as(peaks).bool()


def _rows_and_cols(
    grid: PatchGrid, device: torch.device
) -> tuple[Int[Tensor, " patches"], Int[Tensor, " patches"]]:
    patch = torch.arange(grid.num_patches, device=device)
    return patch // grid.cols, patch % grid.cols
