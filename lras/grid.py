"""Patch <-> code cell <-> pixel: the only place this arithmetic is written.

An image is tiled by patches (one pointer token addresses one patch); a patch is tiled by square
code cells (one content token each). Both grids are row-major.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class PatchGrid:
    """The two grids laid over one frame. All sizes in pixels."""

    height: int
    width: int
    patch_px: int
    code_px: int

    def __post_init__(self) -> None:
        if self.patch_px % self.code_px:
            raise ValueError(
                f"patch_px={self.patch_px} is not a multiple of code_px={self.code_px}; "
                f"a patch must hold a whole number of codes (try patch_px={2 * self.code_px})."
            )
        if self.height % self.patch_px or self.width % self.patch_px or not self.height:
            raise ValueError(
                f"a frame of {self.height}x{self.width} px does not hold a whole number of "
                f"{self.patch_px}-px patches; resize it to multiples of {self.patch_px}."
            )

    @property
    def rows(self) -> int:
        return self.height // self.patch_px

    @property
    def cols(self) -> int:
        return self.width // self.patch_px

    @property
    def num_patches(self) -> int:
        return self.rows * self.cols

    @property
    def code_rows(self) -> int:
        return self.height // self.code_px

    @property
    def code_cols(self) -> int:
        return self.width // self.code_px

    @property
    def side(self) -> int:
        """Code cells along one side of a patch."""
        return self.patch_px // self.code_px

    @property
    def codes_per_patch(self) -> int:
        return self.side**2

    def patch_index(self, points: Float[Tensor, "*n 2"]) -> Int[Tensor, "*n"]:
        """Row-major index of the patch that holds each (x, y); points outside are clamped in."""
        col = (points[..., 0] / self.patch_px).floor().long().clamp(0, self.cols - 1)
        row = (points[..., 1] / self.patch_px).floor().long().clamp(0, self.rows - 1)
        return row * self.cols + col

    def patch_centers(self) -> Float[Tensor, "patches 2"]:
        """(x, y) center of every patch in pixels, row-major."""
        return _centers(self.rows, self.cols, self.patch_px).flatten(0, 1)

    def cell_centers(self) -> Float[Tensor, "code_rows code_cols 2"]:
        """(x, y) center of every code cell in pixels."""
        return _centers(self.code_rows, self.code_cols, self.code_px)

    def to_patches(
        self, cells: Shaped[Tensor, "*batch code_rows code_cols"]
    ) -> Shaped[Tensor, "*batch patches codes"]:
        """Regroup a map over code cells by patch; codes row-major inside the patch."""
        side = self.side
        return rearrange(cells, "... (r a) (c b) -> ... (r c) (a b)", a=side, b=side)

    def to_cells(
        self, patches: Shaped[Tensor, "*batch patches codes"]
    ) -> Shaped[Tensor, "*batch code_rows code_cols"]:
        """Inverse of ``to_patches``."""
        rows, side = self.rows, self.side
        return rearrange(patches, "... (r c) (a b) -> ... (r a) (c b)", r=rows, a=side, b=side)


def _centers(rows: int, cols: int, cell_px: int) -> Float[Tensor, "rows cols 2"]:
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return (torch.stack([x, y], dim=-1) + 0.5) * cell_px
