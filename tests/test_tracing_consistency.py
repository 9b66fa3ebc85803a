"""Tracing there and back: exact on scenes of known motion, and as the slow twin finds it."""

import math

import pytest
import torch

from tests.reference import slow_occlusion as slow
from tests.reference.slow_tracing import RandomModel
from tracing.baselines import ZeroMotion
from tracing.benchmarks.flow import Resized
from tracing.config import TracerConfig, Traces
from tracing.consistency import SALT, ForwardBackward
from tracing.inputs import inside_frame
from tracing.kl_tracer import KLTracer
from tracing.oracle import ShiftOracle

SIZE, PATCH, CELL = 64, 8, 4


class SlidingScene(ShiftOracle):
    """Knows one scene that slides by whole cells, either way; nobody knows what slides in.

    What leaves the frame is gone: its tracer reappears nowhere. Only for the frames it made.
    """

    def frames(self, height, width, seed):
        frame0, frame1 = super().frames(height, width, seed)
        entered = super().frames(height, width, seed + 1)[0]
        right, down = (self.code_px * cells for cells in self.shift_cells)
        frame1 = torch.where(self._enters(height, width, right, down), entered, frame1)
        self.codes = self.encode(torch.stack([frame0, frame1]))
        return frame0, frame1

    def frame1_logits(self, codes0, codes1, reveal, order0, order1, read_out):
        forth = [bool((codes1 == known).all()) for known in self.codes]
        assert sum(forth) == 1, "asked for frames it did not make"
        right, down = self.shift_cells if forth[1] else [-cells for cells in self.shift_cells]
        one_way = ShiftOracle((right, down), self.patch_px, self.code_px)
        logits = one_way.frame1_logits(codes0, codes1, reveal, order0, order1, "all")
        unknown = self._enters(*codes0.shape[1:], right, down)[..., None]
        logits = torch.where(unknown & logits.isfinite(), 0.0, logits)
        return logits if read_out == "all" else logits[:, :: PATCH // CELL, :: PATCH // CELL]

    @staticmethod
    def _enters(rows, cols, right, down):
        """Where a frame shows what was outside the other one."""
        row, col = torch.arange(rows)[:, None] - down, torch.arange(cols) - right
        return ~((row >= 0) & (row < rows) & (col >= 0) & (col < cols))


class Recording:
    """Moves points by fixed steps, pair by pair; keeps what it was asked."""

    name, needs_model = "recording", False

    def __init__(self, *steps):
        self.steps = torch.tensor(steps)[:, None]
        self.asked = []

    def __call__(self, frame0, frame1, points, seed=0):
        self.asked.append((frame0, frame1, points, seed))
        xy = points + self.steps
        seen = torch.ones_like(xy[..., 0], dtype=torch.bool)
        return Traces(xy=xy, visible=seen, peak_kl=xy[..., 0] * 0 + 2)


def frames(batch=1, height=SIZE, width=SIZE):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, batch, 3, height, width, generator=generator).unbind(0)


def every_patch():
    side = torch.arange(SIZE // PATCH) * PATCH + PATCH / 2
    return torch.cartesian_prod(side, side)[None]


@pytest.mark.parametrize("shift_cells", [(2, 0), (0, -4), (-2, 4)])
def test_exactly_the_points_that_leave_the_frame_are_occluded(shift_cells):
    scene = SlidingScene(shift_cells, PATCH, CELL)
    frame0, frame1 = (frame[None] for frame in scene.frames(SIZE, SIZE, seed=0))
    points, moved = every_patch(), CELL * torch.tensor(shift_cells).float()
    stays, came = (inside_frame(points + step, (SIZE, SIZE)) for step in (moved, -moved))
    inner = KLTracer(scene, TracerConfig(peak="argmax", num_masks=6))
    there = inner(frame0, frame1, points)
    assert there.visible.all()  # the peak rule with threshold 0 hides nobody

    traces = ForwardBackward(inner, "forward_backward", return_px=2.0)(frame0, frame1, points)

    # A silent tracer answers with its query, and who is there in frame 1 came from elsewhere; if
    # from outside, the way back is silent, too, and the distance 0. Its peak gives it away.
    assert torch.equal(traces.visible, stays | ~came)
    assert (traces.return_px[stays] == 0).all()
    assert torch.equal(traces.xy, there.xy) and torch.equal(traces.maps, there.maps)
    strict = KLTracer(scene, TracerConfig(peak="argmax", num_masks=6, occlusion_threshold=1e-6))
    both = ForwardBackward(strict, "both", return_px=2.0)(frame0, frame1, points)
    assert torch.equal(both.visible, stays)
    assert torch.equal(both.return_px, traces.return_px)


def test_both_ask_for_the_peak_as_well():
    inner = Recording((0.0, 0.0), (3.0, 0.0))
    pair, points = frames(2), torch.full((2, 3, 2), 20.0)

    def seen(rule, peak_rule):
        def tracer(*asked, seed):
            told = inner(*asked, seed=seed)
            return Traces(xy=told.xy, visible=torch.full_like(told.visible, peak_rule))

        tracer.name, tracer.needs_model = "told", False
        return ForwardBackward(tracer, rule, return_px=4.0)(*pair, points).visible.all(1).tolist()

    # the second pair comes back 6 px away: 3 there and 3 on
    assert seen("forward_backward", True) == seen("forward_backward", False) == [True, False]
    assert seen("both", True) == [True, False] and seen("both", False) == [False, False]
    assert seen("peak_kl", True) == [True, True] and seen("peak_kl", False) == [False, False]


def test_the_distance_is_the_threshold_in_px_that_still_counts():
    pair, points = frames(), torch.full((1, 1, 2), 20.0)
    tracer = Recording((1.5, 2.0))
    told = ForwardBackward(tracer, return_px=5.0)(*pair, points)
    assert told.return_px.tolist() == [[5.0]] and told.visible.all()
    assert not ForwardBackward(tracer, return_px=4.99)(*pair, points).visible.any()


def test_the_way_back_swaps_the_frames_and_draws_other_masks():
    tracer = Recording((4.0, 0.0))
    frame0, frame1 = frames()
    points = torch.tensor([[[10.0, 20.0]]])
    ForwardBackward(tracer)(frame0, frame1, points, seed=7)
    (first, second, asked, seed), (back_first, back_second, back_asked, back_seed) = tracer.asked
    assert torch.equal(first, frame0) and torch.equal(second, frame1)
    assert torch.equal(back_first, frame1) and torch.equal(back_second, frame0)
    assert torch.equal(asked, points)
    assert torch.equal(back_asked, torch.tensor([[[14.0, 20.0]]]))
    assert seed == 7 and back_seed == 7 + SALT


def test_points_that_landed_outside_are_occluded_and_not_traced_back():
    tracer = Recording((30.0, 0.0), (0.0, -10.0))
    points = torch.tensor([[[5.0, 9.0], [60.0, 9.0], [20.0, 9.0]], [[5.0, 9.0]] * 3])
    points[1, 2, 1] = 10.0  # lands on the border, which belongs to the frame
    traces = ForwardBackward(tracer, return_px=100.0)(*frames(2), points)
    expected = [[True, False, True], [False, False, True]]
    assert traces.visible.tolist() == expected
    assert traces.return_px.isfinite().tolist() == expected
    assert traces.return_px[0].tolist() == [60.0, math.inf, 60.0]
    assert traces.return_px[1, 2] == 20.0
    _, _, asked, _ = tracer.asked[1]
    assert asked.shape == (2, 2, 2)  # no more than the pair that has most inside
    assert torch.equal(asked[0], torch.tensor([[35.0, 9.0], [50.0, 9.0]]))
    assert torch.equal(asked[1, 0], torch.tensor([5.0, 0.0]))
    assert inside_frame(asked, (SIZE, SIZE)).all()  # what fills the second pair is a fair question


def test_where_nobody_landed_inside_nothing_is_asked():
    tracer = Recording((100.0, 0.0))
    traces = ForwardBackward(tracer)(*frames(), torch.full((1, 4, 2), 9.0))
    assert len(tracer.asked) == 1 and not traces.visible.any()
    assert (traces.return_px == math.inf).all()


@pytest.mark.parametrize("there, back", [(math.nan, 1.0), (1.0, math.nan)])
def test_an_answer_that_is_no_number_did_not_come_back(there, back):
    tracer = Recording((there, 0.0))

    def turning(frame0, frame1, points, seed):
        traces = tracer(frame0, frame1, points, seed)
        tracer.steps = torch.tensor([[[back, 0.0]]])
        return traces

    turning.name, turning.needs_model = "turning", False
    traces = ForwardBackward(turning)(*frames(), torch.full((1, 2, 2), 9.0))
    assert (traces.return_px == math.inf).all() and not traces.visible.any()


@pytest.mark.parametrize("placement", ["patch", "query"])
def test_a_batch_is_traced_back_as_the_slow_twin_does(placement):
    cfg = TracerConfig(num_masks=2, placement=placement)
    inner = KLTracer(RandomModel(8, 4), cfg, max_batch=4)
    pair = frames(2, 24, 24)
    points = 24 * torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(5))
    distances = slow.way_back(inner, *pair, points, 11, 11 + SALT)
    middle = sum(sorted(distances)[3:5]) / 2
    traces = ForwardBackward(inner, return_px=middle)(*pair, points, seed=11)
    assert traces.return_px.flatten().tolist() == pytest.approx(distances, abs=1e-3)
    assert traces.visible.flatten().tolist() == [away <= middle for away in distances]


def test_it_stands_in_for_its_tracer():
    inner = Resized(ZeroMotion(), (16, 16))
    tracer = ForwardBackward(inner)
    assert (tracer.name, tracer.needs_model, tracer.input_hw) == (inner.name, False, (16, 16))
    assert not hasattr(tracer, "takes_native")
    traces = tracer(*frames(2), torch.full((2, 3, 2), 9.0))
    assert traces.return_px.abs().max() < 1e-5 and traces.peak_kl is None
    assert tracer(*frames(2), torch.zeros(2, 0, 2)).return_px.shape == (2, 0)


def test_a_rule_or_a_distance_that_says_nothing_is_refused():
    with pytest.raises((ValueError, TypeError), match="guess"):
        ForwardBackward(ZeroMotion(), "guess")
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"return_px=.* calls no point visible"):
            ForwardBackward(ZeroMotion(), return_px=wrong)
