"""Dense flow as point queries, and tracers that are shown resized frames."""

import pytest
import torch

from data.types import FlowPair
from tests.fake_datasets import write_flow_pair
from tracing.baselines import DIS, BestTranslation, Farneback, ZeroMotion
from tracing.benchmarks.flow import FlowPairs, Resized, point_pairs_of
from tracing.config import TracerConfig, Traces


def pair_of(flow, valid=None, visible=None):
    height, width = flow.shape[1:]
    frame = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(height, width, dtype=torch.bool) if valid is None else valid
    return FlowPair(frame, frame, flow, valid, visible, "pair")


class MovesBy:
    """Answers with a displacement in pixels of the frames it is shown."""

    name, needs_model = "moves", False

    def __init__(self, step):
        self.step = torch.tensor(step)

    def __call__(self, frame0, frame1, points, seed=0):
        self.shown_hw = tuple(frame0.shape[-2:])
        xy = points + self.step
        return Traces(xy=xy, visible=torch.ones(xy.shape[:2], dtype=torch.bool))


def test_targets_are_points_plus_their_flow():
    flow = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(1))
    queries = point_pairs_of(pair_of(flow), 30, seed=3)
    col, row = (queries.points[0] - 0.5).long().T
    assert queries.valid.all()
    assert torch.equal(queries.target[0], queries.points[0] + flow[:, row, col].T)
    assert len({tuple(p) for p in queries.points[0].tolist()}) == 30


def test_points_are_known_visible_and_stay_inside_the_frame():
    flow = torch.zeros(2, 8, 8)
    flow[0] = 3.0  # the last three columns leave the frame
    valid = torch.ones(8, 8, dtype=torch.bool)
    valid[0] = False
    visible = torch.ones(8, 8, dtype=torch.bool)
    visible[:, 0] = False
    queries = point_pairs_of(pair_of(flow, valid, visible), 64, seed=0)
    x, y = queries.points[queries.valid].T
    assert queries.valid.sum() == 7 * 4 == queries.visible.sum()
    assert x.min() == 1.5 and x.max() == 4.5 and y.min() == 1.5


def test_the_draw_of_points_follows_the_seed():
    pair = pair_of(torch.zeros(2, 16, 16))
    first, again, other = (point_pairs_of(pair, 8, seed).points for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_resized_tracer_sees_small_frames_and_answers_in_native_pixels():
    tracer = MovesBy((1.0, 2.0))
    resized = Resized(tracer, (8, 16))
    frames = torch.rand(1, 3, 24, 64)
    points = torch.tensor([[[32.0, 12.0], [4.0, 3.0]]])
    traces = resized(frames, frames, points)
    assert tracer.shown_hw == (8, 16) and resized.name == "moves@8x16"
    assert torch.equal(traces.xy - points, torch.tensor([4.0, 6.0]).expand(1, 2, 2))


def test_everybody_has_a_size_and_a_name_of_their_own(tmp_path):
    write_flow_pair(tmp_path / "a")
    task = FlowPairs(tmp_path, points_per_pair=4, seed=0, input_px=16)
    cast = [DIS(), DIS(enlarge=4), ZeroMotion(), BestTranslation(), Farneback()]
    names = [adapted.name for tracer in cast for adapted in task.adapt(tracer)]
    assert names[:4] == ["dis@native", "dis@16x16", "zero_motion", "best_translation@16x16"]
    assert names[4:] == ["farneback@native", "farneback@16x16"] and cast[-1].name == "farneback"
    no_model = FlowPairs(tmp_path, points_per_pair=4, seed=0)
    names = [adapted.name for tracer in cast for adapted in no_model.adapt(tracer)]
    assert names == ["dis@native", "zero_motion", "farneback@native"]


def test_the_floor_is_zero_for_motion_by_whole_patches_of_the_resized_frame(tmp_path):
    write_flow_pair(tmp_path / "a", shift=(8, 8), size=(32, 32))
    task = FlowPairs(tmp_path, points_per_pair=16, seed=0, input_px=16)
    assert task.floor(4, TracerConfig(), 4) == pytest.approx(0, abs=1e-5)
    # half a patch of the resized frame: the nearest cell is 2 of its pixels, 4 as stored, away
    write_flow_pair(tmp_path / "b", shift=(4, 0), size=(32, 32))
    task = FlowPairs(tmp_path, points_per_pair=16, seed=0, input_px=16)
    assert task.floor(4, TracerConfig(), 4) == pytest.approx(2, abs=1e-5)


def test_a_task_without_a_folder_says_what_to_type():
    with pytest.raises(ValueError, match=r"task\.root=DIR"):
        FlowPairs(None, points_per_pair=4, seed=0)
