"""Tracks: the first frame against each later one, every position at its own time."""

import pytest
import torch

from tracing.asking import Asking
from tracing.config import Traces
from tracing.overlay import draw_tracks
from tracing.tracking import query_grid, track_points


class Clock:
    """Reads the time from the brightness of frame 1 and moves points by (2, 1) px a frame."""

    name, needs_model = "clock", False

    def __init__(self):
        self.seeds = []

    def __call__(self, frame0, frame1, points, seed=0):
        assert frame0.max() == 0  # always the first
        t = (frame1.flatten()[0] * 255).round()
        self.seeds.append(seed)
        xy = points + t * torch.tensor([2.0, 1.0])
        return Traces(xy=xy, visible=xy[..., 1] < 20, peak_kl=xy.sum(-1))


def clip(num_frames=4, height=24, width=32):
    times = torch.arange(num_frames, dtype=torch.float32) / 255
    return times[:, None, None, None].expand(-1, 3, height, width)


def test_every_position_stands_at_its_own_time():
    tracer = Clock()
    queries = torch.tensor([[1.0, 2.0], [25.0, 18.5]])
    tracks = track_points(tracer, iter(clip()), queries, how=Asking(seed=5))
    steps = torch.arange(4)[:, None] * torch.tensor([2.0, 1.0])
    assert torch.equal(tracks.points, queries[:, None] + steps)
    # The second one is hidden from y = 20 on, as the tracer says, and leaves at x = 31 + 2.
    assert tracks.visible.tolist() == [[True] * 4, [True, True, False, False]]
    assert torch.equal(tracks.peak_kl[:, 0], torch.zeros(2))
    assert torch.equal(tracks.peak_kl[:, 1:], tracks.points[:, 1:].sum(-1))
    assert tracer.seeds == [6, 7, 8]  # masks differ from frame to frame
    assert tracks.return_px is None and tracks.points_per_second > 0


def test_a_point_outside_the_frame_is_hidden():
    tracks = track_points(Clock(), clip(), torch.tensor([[27.0, 1.0]]))
    assert tracks.points[0, :, 0].tolist() == [27, 29, 31, 33]
    assert tracks.visible.tolist() == [[True, True, True, False]]


def test_a_grid_is_laid_amid_the_frame():
    points = query_grid((24, 50), 20.0)
    assert points.tolist() == [[15.0, 12.0], [35.0, 12.0]]
    assert query_grid((5, 7), 100.0).tolist() == [[3.5, 2.5]]
    with pytest.raises(ValueError, match="positive step"):
        query_grid((24, 50), 0.0)


def test_bad_questions_are_refused():
    inside = torch.tensor([[3.0, 3.0]])
    with pytest.raises(ValueError, match="got 1 frame"):
        track_points(Clock(), clip(1), inside)
    with pytest.raises(ValueError, match="got 0 frame"):
        track_points(Clock(), clip(0), inside)
    with pytest.raises(ValueError, match="no queries"):
        track_points(Clock(), clip(), inside[:0])
    with pytest.raises(ValueError, match="query 1 is at x=3, y=25, outside the frame of 32x24"):
        track_points(Clock(), clip(), torch.tensor([[3.0, 3.0], [3.0, 25.0]]))


def test_a_point_is_drawn_where_it_is_and_its_tail_where_it_was():
    frames = torch.zeros(3, 3, 40, 60, dtype=torch.uint8)
    points = torch.tensor([[[10.5, 20.5], [20.5, 20.5], [40.5, 30.5]]])
    seen = torch.tensor([[True, True, False]])
    drawn = torch.stack(list(draw_tracks(frames, points, seen))).amax(1)
    assert (frames == 0).all()
    rows, cols = (drawn[0] > 100).nonzero().T
    assert (rows.float().mean(), cols.float().mean()) == (20, 10)  # symmetric about the point
    assert drawn[1, 20, 15] > 100 and drawn[1, 20, 20] > 100  # joined to where it was
    assert drawn[2, 30, 40] == 0 and drawn[2, 30, 42] > 50  # hidden: a ring, empty inside
    assert drawn[2, 20, 15] > 100 and drawn[2, 25, 30] == 0  # the tail ends where it was last seen
