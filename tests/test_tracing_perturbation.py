"""The bump's shape, its clipping and rounding, and which codes it may change."""

import math

import pytest
import torch

from lras.grid import PatchGrid
from tracing.perturbation import (
    add_tracer,
    count_flipped,
    isolate,
    touched_cells,
    tracer_centers,
)

GRID = PatchGrid(32, 32, 8, 4)


def test_bump_is_a_gaussian_round_the_center_in_raster_pixels():
    frame = torch.full((1, 3, 16, 16), 0.25)
    bumped = add_tracer(frame, torch.tensor([[5.0, 9.5]]), sigma_px=2.0, amplitude=0.5)
    # Pixel (row 9, col 6) has its center at (6.5, 9.5).
    expected = 0.25 + 0.5 * math.exp(-(1.5**2) / 8)
    assert bumped[0, 1, 9, 6].item() == pytest.approx(expected, abs=1e-6)
    # Row 12, col 3: 1.5 px left, 3 px down.
    expected = 0.25 + 0.5 * math.exp(-(1.5**2 + 3**2) / 8)
    assert bumped[0, 2, 12, 3].item() == pytest.approx(expected, abs=1e-6)


def test_brightest_pixel_is_the_one_whose_center_was_asked_for():
    bumped = add_tracer(torch.zeros(1, 3, 16, 16), torch.tensor([[11.5, 3.5]]), 1.0, 1.0)
    assert bumped[0, 0].argmax().item() == 3 * 16 + 11 and bumped.max() == 1.0


@pytest.mark.parametrize("amplitude", [1.0, -1.0])
def test_frames_stay_in_range(amplitude):
    frame = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bumped = add_tracer(frame, torch.tensor([[8.0, 8.0]]), 2.0, amplitude)
    assert bumped.min() >= 0 and bumped.max() <= 1
    assert ((bumped - frame) * amplitude >= 0).all()


def test_each_row_gets_its_own_tracer_and_inputs_are_left_alone():
    frames = torch.zeros(2, 3, 3, 16, 16)
    centers = torch.tensor([[[2.5, 2.5], [9.5, 2.5], [2.5, 9.5]]] * 2)
    bumped = add_tracer(frames, centers, 1.0, 1.0)
    assert bumped[1].sum(1).flatten(1).argmax(-1).tolist() == [2 * 16 + 2, 2 * 16 + 9, 9 * 16 + 2]
    assert not frames.any()


def test_truncation_keeps_every_8_bit_level_and_cuts_the_rest_down():
    levels = (torch.arange(256.0) / 255 - 1e-7).clamp(0).expand(1, 3, 1, 256)  # a hair too low
    kept = add_tracer(levels, torch.tensor([[0.0, 0.0]]), 1.0, 0.0, "truncate_uint8")
    assert torch.equal((kept * 255).round(), (levels * 255).round())
    black, center = torch.zeros(1, 3, 8, 8), torch.tensor([[4.0, 4.0]])
    dark = add_tracer(black, center, 2.0, 1.0, "truncate_uint8")
    exact = 255 * math.exp(-(0.5**2 + 1.5**2) / 8)
    assert (dark[0, 0, 4, 5] * 255).item() == pytest.approx(math.floor(exact), abs=1e-4)


@pytest.mark.parametrize("amplitude", [1.0, -1.0])
def test_truncation_leaves_frames_of_finer_levels_as_they_are_beyond_the_bump(amplitude):
    frame = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bumped = add_tracer(frame, torch.tensor([[2.5, 2.5]]), 1.0, amplitude, "truncate_uint8")
    assert torch.equal(bumped[..., 8:, 8:], frame[..., 8:, 8:])
    assert bumped.min() >= 0 and bumped.max() <= 1
    change = (bumped - frame)[..., 2, 2].abs() * 255
    room = (1 - frame if amplitude > 0 else frame)[..., 2, 2] * 255
    assert (change > 1).all() and torch.allclose(change, room, atol=1.0)


def test_placement_on_the_patch_takes_its_center():
    points = torch.tensor([[17.0, 9.0], [31.9, 0.1]])
    assert tracer_centers(points, GRID, "query").tolist() == points.tolist()
    assert tracer_centers(points, GRID, "patch").tolist() == [[20.0, 12.0], [28.0, 4.0]]


def test_isolation_keeps_the_source_patch_only():
    codes0 = torch.zeros(2, 8, 8, dtype=torch.long)
    perturbed = torch.ones_like(codes0)
    kept = isolate(codes0, perturbed, torch.tensor([5, 2]), GRID)
    assert kept[0, 2:4, 2:4].all() and kept[1, 0:2, 4:6].all()
    assert count_flipped(codes0, kept).tolist() == [4, 4]


def test_touched_cells_are_those_with_a_changed_pixel():
    frame = torch.full((1, 3, 32, 32), 0.5)
    other = frame.clone()
    other[0, 2, 13, 30] = 0.6
    assert touched_cells(frame, other, GRID).nonzero().tolist() == [[0, 3, 7]]
