"""Camera poses and flow as tokens: worked examples, and back again."""

import math

import pytest
import torch

from lras.grid import PatchGrid
from lras.official.pose_flow import (
    POSE_FLOW,
    RGB_FLOW,
    flow_bins,
    flow_code_tokens,
    flow_from_bins,
    flow_from_whole_bins,
    flow_tokens,
    flow_whole_bins,
    pose_codes,
    pose_from_codes,
    pose_matrix,
    pose_tokens,
    pose_vector,
    relative_pose,
)

GRID = PatchGrid(16, 16, patch_px=8, code_px=4)


def pose(degrees_about_z: float, shift: tuple[float, float, float]) -> torch.Tensor:
    angle = math.radians(degrees_about_z)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = math.cos(angle)
    matrix[1, 0], matrix[0, 1] = math.sin(angle), -math.sin(angle)
    matrix[:3, 3] = torch.tensor(shift)
    return matrix


def test_a_turn_and_a_shift_become_seven_codes():
    vector = pose_vector(pose(30, (0.0, 0.0, -2.0)))
    assert vector.tolist() == pytest.approx([0, 0, 30, 0, 0, -1, 2], abs=1e-6)
    assert pose_codes(vector).tolist() == [1801, 1801, 2101, 1001, 1001, 1, 2001]


def test_no_motion_has_no_direction():
    codes = pose_codes(pose_vector(torch.eye(4)))
    assert codes.tolist() == [1801] * 3 + [1001] * 3 + [1]


def test_a_pose_survives_its_codes_within_half_a_step():
    matrices = torch.stack([pose(-179, (0.5, 0.2, 0.1)), pose(12.34, (0.0, 3.0, 4.0))])
    vector = pose_vector(matrices)
    assert torch.allclose(pose_matrix(vector), matrices, atol=1e-5)
    off = (pose_from_codes(pose_codes(vector)) - vector).abs()
    assert float(off[:, :3].max()) <= 0.05 + 1e-9 and float(off[:, 3:].max()) <= 5e-4 + 1e-9
    assert torch.equal(pose_codes(pose_from_codes(pose_codes(vector))), pose_codes(vector))


def test_the_relative_pose_takes_camera_1_to_camera_0():
    world0, world1 = pose(90, (1.0, 0.0, 0.0)), pose(90, (1.0, 2.0, 0.0))
    moved = relative_pose(world0, world1)
    assert torch.allclose(moved, pose(0, (2.0, 0.0, 0.0)), atol=1e-12)


def test_pose_tokens_are_a_pointer_and_contents_at_eight_places():
    tokens, places = pose_tokens(torch.arange(14).view(2, 7))
    assert tokens[1].tolist() == [111_376, *range(101_383, 101_390)]
    assert places.tolist() == 2 * [list(range(22_528, 22_536))]


def test_a_pose_too_far_away_and_a_model_without_poses_are_refused():
    far = pose_codes(pose_vector(pose(0, (0.0, 0.0, 12.0))))
    with pytest.raises(ValueError, match="span 1001 to 12001, the model knows 0 to 9999; scale"):
        pose_tokens(far)
    with pytest.raises(ValueError, match="this model has no pose tokens"):
        pose_tokens(far, RGB_FLOW)


def test_flow_bins_span_the_frame_and_miss_zero():
    flow = torch.tensor([-300.0, -256.0, 0.0, 256.0, 300.0])
    assert flow_bins(flow).tolist() == [0, 0, 256, 511, 511]
    middles = flow_from_bins(torch.tensor([0, 255, 256, 511]))
    assert middles.tolist() == pytest.approx([-256, -256 / 511, 256 / 511, 256], abs=1e-4)
    spread = torch.linspace(-256, 256, 999)
    assert float((flow_from_bins(flow_bins(spread)) - spread).abs().max()) <= 256 / 511 + 1e-4


def test_whole_pixel_bins_hold_zero_and_round_halves_to_even():
    flow = torch.tensor([0.0, 0.5, 1.5, -0.5, 255.9])
    assert flow_whole_bins(flow).tolist() == [256, 256, 258, 256, 511]
    assert flow_from_whole_bins(flow_whole_bins(flow)).tolist() == [0, 0, 2, 0, 255]


def test_a_group_of_flow_is_a_pointer_and_both_components_cell_by_cell():
    bins = torch.arange(16).view(4, 4)
    tokens, places = flow_tokens(torch.stack([bins, bins + 100]), torch.tensor([3, 0]), GRID)
    u = [10, 11, 14, 15]  # the cells of the last patch
    contents = [67_584 + value for cell in u for value in (cell, cell + 100)]
    assert tokens[0].tolist() == [68_096 + 3, *contents]
    assert places.tolist() == [list(range(10_267, 10_276)), list(range(10_240, 10_249))]


def test_a_group_of_flow_codes_is_laid_out_like_colors():
    codes = torch.arange(16).view(4, 4) + 32_000
    tokens, places = flow_code_tokens(codes, torch.tensor([1]), GRID)
    assert tokens.tolist() == [[100_353, 99_586, 99_587, 99_590, 99_591]]
    assert places.tolist() == [list(range(10_245, 10_250))]


def test_codes_beyond_the_models_flow_are_refused():
    with pytest.raises(ValueError, match="span 0 to 32767, the model knows 0 to 511"):
        codes = torch.zeros(4, 4, dtype=torch.long)
        codes[0, 0] = 32_767
        flow_code_tokens(codes, torch.tensor([1]), GRID, RGB_FLOW)


def test_the_ranges_here_are_those_of_the_released_classes():
    assert RGB_FLOW.flow_places[1] - RGB_FLOW.flow_places[0] == 9 * 1024
    assert POSE_FLOW.pose_places[1] - POSE_FLOW.pose_places[0] == 8
    assert POSE_FLOW.flow[1] - POSE_FLOW.flow[0] == 32_768
