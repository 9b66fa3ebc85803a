"""One convention of coordinates: corner (0, 0), pixel centers at one half."""

import pytest
import torch

from data.coords import pixel_centers, rescale_flow, rescale_points, sample_at


def test_the_first_pixel_center_is_at_one_half_and_x_comes_first():
    centers = pixel_centers(2, 3)
    assert centers[0, 0].tolist() == [0.5, 0.5]
    assert centers[1, 2].tolist() == [2.5, 1.5]


def test_corners_and_centers_stay_corners_and_centers_through_a_resize():
    points = torch.tensor([[0.0, 0.0], [8.0, 4.0], [4.0, 2.0]])
    resized = rescale_points(points, (4, 8), (8, 4))
    assert resized.tolist() == [[0.0, 0.0], [4.0, 8.0], [2.0, 4.0]]


def test_flow_values_scale_with_their_own_axis():
    flow = torch.tensor([3.0, 1.0])[:, None, None].expand(2, 4, 6)
    doubled = rescale_flow(flow, (4, 6), (8, 3))
    assert doubled.shape == (2, 8, 3)
    assert doubled[:, 5, 1].tolist() == [1.5, 2.0]


def test_flow_of_another_size_than_stated_is_refused():
    with pytest.raises(ValueError, match="4x6 px but from_hw says 6x4"):
        rescale_flow(torch.zeros(2, 4, 6), (6, 4), (8, 8))


def test_sampling_at_pixel_centers_returns_the_pixels():
    field = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    points = pixel_centers(5, 7).flatten(0, 1).expand(2, -1, 2)
    torch.testing.assert_close(sample_at(field, points), field.flatten(2).transpose(1, 2))


def test_sampling_between_two_centers_is_their_mean_and_outside_is_the_border():
    field = torch.tensor([[1.0, 3.0], [5.0, 7.0]])[None, None]
    points = torch.tensor([[[1.0, 0.5], [0.5, 1.0], [-9.0, 0.5], [9.0, 9.0]]])
    assert sample_at(field, points).flatten().tolist() == [2.0, 3.0, 1.0, 7.0]
