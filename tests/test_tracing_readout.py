"""Where maps are read, what a peak stands for, and how peaks become answers."""

import pytest
import torch

from lras.grid import PatchGrid
from tracing.config import TracerConfig
from tracing.readout import answer, find_peak, hidden_map, map_positions, to_map

GRID = PatchGrid(32, 48, 8, 4)  # 4 x 6 patches, 8 x 12 cells


def config(placement, read_out="all", **more):
    return TracerConfig(placement=placement, read_out=read_out, **more)


@pytest.mark.parametrize(
    "placement, read_out, shape, first, second",
    [
        ("patch", "all", (4, 6), [4.0, 4.0], [12.0, 4.0]),
        ("patch", "first", (4, 6), [4.0, 4.0], [12.0, 4.0]),
        ("query", "all", (8, 12), [2.0, 2.0], [6.0, 2.0]),
        ("query", "first", (4, 6), [2.0, 2.0], [10.0, 2.0]),
    ],
)
def test_map_positions_stand_for_what_the_codes_see(placement, read_out, shape, first, second):
    positions = map_positions(GRID, config(placement, read_out))
    assert positions.shape == (*shape, 2)
    assert positions[0, 0].tolist() == first and positions[0, 1].tolist() == second


def test_patch_map_is_the_mean_over_the_patchs_cells():
    cells = torch.arange(96.0).view(1, 8, 12)
    patch_map = to_map(cells, GRID, config("patch"))
    assert patch_map.shape == (1, 4, 6)
    assert patch_map[0, 1, 2].item() == cells[0, 2:4, 4:6].mean().item()
    assert torch.equal(to_map(cells, GRID, config("query")), cells)


def test_hidden_positions_follow_the_reveal_mask():
    reveal = torch.zeros(1, 24, dtype=torch.bool)
    reveal[0, 8] = True  # row 1, column 2
    assert (~hidden_map(reveal, GRID, config("patch"))).nonzero().tolist() == [[0, 1, 2]]
    cells = (~hidden_map(reveal, GRID, config("query"))).nonzero()[:, 1:].tolist()
    assert cells == [[2, 4], [2, 5], [3, 4], [3, 5]]


def peak_of(patch_map, can_win=None, centroid=True):
    can_win = torch.ones(4, 6, dtype=torch.bool) if can_win is None else can_win
    return find_peak(patch_map, can_win, map_positions(GRID, config("patch")), centroid)


def test_centroid_weighs_the_window_round_the_peak_only():
    heat = torch.zeros(4, 6, dtype=torch.float64)
    heat[1, 2], heat[1, 3], heat[3, 5] = 3.0, 1.0, 2.9
    xy, height = peak_of(heat)
    assert xy.tolist() == [20.0 + 8.0 / 4, 12.0] and height.item() == 3.0
    assert peak_of(heat, centroid=False)[0].tolist() == [20.0, 12.0]


def test_centroid_at_the_border_and_beside_a_revealed_patch():
    heat = torch.zeros(4, 6, dtype=torch.float64)
    heat[0, 0], heat[0, 1], heat[0, 5] = 3.0, 1.0, 2.0  # column 5 is no neighbor of column 0
    assert peak_of(heat)[0].tolist() == [4.0 + 2.0, 4.0]
    can_win = torch.ones(4, 6, dtype=torch.bool)
    can_win[0, 1] = False
    assert peak_of(heat, can_win)[0].tolist() == [4.0, 4.0]


def test_position_that_cannot_win_does_not():
    heat = torch.zeros(4, 6, dtype=torch.float64)
    heat[0, 0], heat[2, 2] = 9.0, 1.0
    can_win = torch.ones(4, 6, dtype=torch.bool)
    can_win[0, 0] = False
    xy, height = peak_of(heat, can_win)
    assert xy.tolist() == [20.0, 20.0] and height.item() == 1.0


def test_patch_placement_answers_query_plus_displacement():
    heat = torch.zeros(1, 1, 4, 6, dtype=torch.float64)
    heat[0, 0, 3, 1] = 1.0
    query = torch.tensor([[[33.5, 9.0]]])  # patch row 1, column 4
    can_win = torch.ones(4, 6, dtype=torch.bool)
    xy, _ = answer(heat, can_win, query, GRID, config("patch"))
    assert xy.tolist() == [[[33.5 - 24.0, 9.0 + 16.0]]] and xy.dtype == query.dtype


def test_query_placement_answers_the_peak_itself():
    heat = torch.zeros(1, 1, 8, 12, dtype=torch.float64)
    heat[0, 0, 3, 1] = 1.0
    query = torch.tensor([[[33.5, 9.0]]])
    xy, _ = answer(heat, torch.ones(8, 12, dtype=torch.bool), query, GRID, config("query"))
    assert xy.tolist() == [[[6.0, 14.0]]]


@pytest.mark.parametrize("placement, shape", [("patch", (4, 6)), ("query", (8, 12))])
def test_flat_zero_map_answers_zero_displacement(placement, shape):
    query = torch.tensor([[33.5, 9.0]])
    can_win = torch.ones(shape, dtype=torch.bool)
    can_win[0, 0] = False
    xy, height = answer(torch.zeros(1, *shape), can_win, query, GRID, config(placement))
    assert torch.equal(xy, query) and height.tolist() == [0.0]
