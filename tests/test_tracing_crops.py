"""Crops and the maps of coordinates between them and the frames they are cut from."""

import pytest
import torch

from data.coords import pixel_centers
from tracing.crops import Boxes, View, box_round, cut, resize, to_crop, to_frame, whole


def rand(*shape, seed=0, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator)


def blobs(points, hw, sigma):
    """Frames with a soft dot each, at the points; sigma is (x, y) px."""
    away = pixel_centers(*hw)[None] - points[:, None, None]
    dot = (-(away / torch.tensor(sigma)).square().sum(-1) / 2).exp()
    return dot[:, None].expand(-1, 3, -1, -1).contiguous()


def centroids(frames):
    weights = frames.mean(1).double()
    centers = pixel_centers(*frames.shape[-2:]).double()
    return (weights[..., None] * centers).sum((1, 2)) / weights.sum((1, 2))[:, None]


@pytest.mark.parametrize("seed", range(20))
def test_points_come_back_from_random_boxes(seed):
    height, width, box_height, box_width, rows, cols = torch.randint(
        2, 900, (6,), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    frame_hw, size_hw = (height + box_height, width + box_width), (box_height, box_width)
    corner = (rand(50, 2, seed=seed) * torch.tensor([width, height])).floor().double()
    boxes, hw = Boxes(corner, size_hw), (rows, cols)
    points = rand(50, 2, seed=seed + 1) * torch.tensor([frame_hw[1], frame_hw[0]])
    there = to_crop(points, boxes, hw)
    # written out: x from the left edge of the box, in steps of the stretched pixels
    x = (points[:, 0].double() - corner[:, 0]) * cols / box_width
    y = (points[:, 1].double() - corner[:, 1]) * rows / box_height
    assert torch.allclose(there.double(), torch.stack([x, y], 1), rtol=1e-6)
    assert (to_frame(there, boxes, hw) - points).abs().max() < 1e-3
    # inside the boxes, where the rounding of float32 is that of a crop
    inside = corner + rand(50, 2, seed=seed + 2).double() * torch.tensor(size_hw[::-1])
    back = to_frame(to_crop(inside, boxes, hw), boxes, hw)
    assert (back - inside).abs().max() < 1e-9
    back = to_frame(to_crop(inside.float(), boxes, hw), boxes, hw)
    assert (back - inside).abs().max() < 1e-4


def test_corners_of_a_box_are_the_corners_of_its_crop():
    boxes = Boxes(torch.tensor([[10.0, 4.0]]).double(), (6, 20))
    corners = torch.tensor([[10.0, 4.0], [30.0, 4.0], [10.0, 10.0], [30.0, 10.0]])
    each = Boxes(boxes.corner.expand(4, 2), boxes.size_hw)
    expected = torch.tensor([[0.0, 0.0], [16.0, 0.0], [0.0, 12.0], [16.0, 12.0]])
    assert torch.equal(to_crop(corners, each, (12, 16)), expected)
    assert torch.equal(to_frame(expected, each, (12, 16)), corners)


@pytest.mark.parametrize("size_hw", [(5, 8), (6, 7), (1, 1), (20, 31)])
def test_boxes_are_whole_inside_and_as_centered_as_can_be(size_hw):
    height, width = 20, 31
    centers = rand(200, 2, low=-5.0, high=36.0)
    boxes = box_round(centers, size_hw, (height, width))
    lefts = torch.arange(width - size_hw[1] + 1)
    tops = torch.arange(height - size_hw[0] + 1)
    for corner, center in zip(boxes.corner, centers, strict=True):
        for axis, starts in ((0, lefts), (1, tops)):
            middle = starts + size_hw[1 - axis] / 2
            assert corner[axis] in starts
            nearest = (middle - center[axis]).abs().min()
            assert abs(corner[axis] + size_hw[1 - axis] / 2 - center[axis]) <= nearest + 1e-5
    with pytest.raises(ValueError, match="does not fit"):
        box_round(centers, (21, 8), (height, width))
    with pytest.raises(ValueError, match="at least 1 px"):
        box_round(centers, (0, 8), (height, width))


@pytest.mark.parametrize(
    "size_hw, hw", [((24, 40), (64, 64)), ((40, 24), (80, 120)), ((60, 100), (32, 32))]
)
def test_a_dot_is_found_in_the_crop_where_the_map_says(size_hw, hw):
    frame_hw = (90, 130)
    points = rand(12, 2, seed=1) * torch.tensor([100.0, 60.0]) + 15
    frames = blobs(points, frame_hw, (1.5, 2.0))
    of = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    off = rand(12, 2, seed=3, low=-4.0, high=4.0)  # the dot is not in the middle
    boxes = box_round(points[of] + off, size_hw, frame_hw)
    found = centroids(cut(frames, of, boxes, hw))
    assert (found - to_crop(points[of], boxes, hw)).abs().max() < 0.05


def test_a_crop_of_a_crop_knows_where_it_is():
    frame_hw, hw = (90, 130), (48, 64)
    points = rand(6, 2, seed=4) * torch.tensor([90.0, 50.0]) + 20
    frames = blobs(points, frame_hw, (1.5, 1.5))
    view = View(frames, torch.arange(6), whole(6, frame_hw, frames.device))
    assert torch.equal(view.see(points), points)
    for size in ((50, 70), (36, 40), (30, 50)):
        view = view.zoom(points + 1.3, size, hw)
        assert view.hw == hw
        assert (centroids(view.images) - view.see(points)).abs().max() < 0.1
        assert (view.place(view.see(points)) - points).abs().max() < 1e-4
    # 50 px, of which 36 of 48, of which 30 of 48
    assert view.boxes.size_hw == pytest.approx((50 * 36 / 48 * 30 / 48, 70 * 40 / 64 * 50 / 64))


def test_a_box_is_cut_from_the_frame_it_belongs_to():
    frames = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 8) / 2
    boxes = whole(4, (8, 8), frames.device)
    crops = cut(frames, torch.tensor([2, 0, 1, 1]), boxes, (16, 4))
    assert torch.equal(crops.amax((1, 2, 3)), torch.tensor([1.0, 0.0, 0.5, 0.5]))
    assert cut(frames, torch.zeros(0).long(), whole(0, (8, 8), frames.device), (4, 4)).shape[0] == 0


def test_frames_of_the_wanted_size_are_left_alone_and_shrinking_averages():
    frames = rand(1, 3, 16, 16)
    assert resize(frames, (16, 16)) is frames
    stripes = torch.zeros(1, 3, 16, 16)
    stripes[..., 1::4] = 1.0
    small = resize(stripes, (4, 4))[..., 1:-1]
    assert (small - 0.25).abs().max() < 0.03  # without antialiasing: 0.5, two columns in four
