"""Patches, cells and pixels: exact answers on small grids."""

import pytest
import torch

from lras.grid import PatchGrid

OFFICIAL = PatchGrid(256, 256, 8, 4)


def test_the_published_geometry_has_1024_patches_of_four_codes():
    assert (OFFICIAL.num_patches, OFFICIAL.codes_per_patch, OFFICIAL.code_rows) == (1024, 4, 64)


def test_a_point_belongs_to_the_patch_that_holds_it_x_before_y():
    points = torch.tensor([[9.0, 1.0], [1.0, 9.0], [255.9, 255.9], [-3.0, 300.0]])
    assert OFFICIAL.patch_index(points).tolist() == [1, 32, 1023, 31 * 32]


def test_centers_are_half_a_patch_and_half_a_cell_in():
    grid = PatchGrid(16, 24, 8, 4)
    assert grid.patch_centers()[:4].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12]]
    assert grid.cell_centers()[1, 2].tolist() == [10, 6]


def test_codes_of_a_patch_are_row_major_and_regrouping_is_undone():
    grid = PatchGrid(16, 24, 8, 4)
    cells = torch.arange(24).view(1, 4, 6)
    patches = grid.to_patches(cells)
    assert patches[0, 1].tolist() == [2, 3, 8, 9]
    assert torch.equal(grid.to_cells(patches), cells)


@pytest.mark.parametrize("sizes", [(64, 64, 8, 3), (60, 64, 8, 4), (0, 64, 8, 4)])
def test_a_grid_that_does_not_fit_is_refused_with_a_sentence(sizes):
    with pytest.raises(ValueError, match="whole number"):
        PatchGrid(*sizes)
