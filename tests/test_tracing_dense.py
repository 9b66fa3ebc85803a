"""Dense flow: exact where the truth is known, honest about what is hidden, asked only once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from reference.slow_dense import slow_spread

from data.coords import pixel_centers
from lras.grid import PatchGrid
from tracing.asking import Asking
from tracing.benchmarks.flow import Resized
from tracing.config import Traces
from tracing.consistency import ForwardBackward
from tracing.dense import dense_flow, query_lattice, spread
from tracing.kl_tracer import KLTracer
from tracing.oracle import ShiftOracle

ONE_WAY = Asking(back=False)


class Crooked:
    """Moves every point by ``there`` and, frames swapped, back by ``-there + astray``.

    Frame 1 is told from frame 0 by being the brighter one.
    """

    name, needs_model = "crooked", False

    def __init__(self, there=(6.0, 0.0), astray=(0.0, 0.0), visible=True):
        self.there, self.astray, self.visible = torch.tensor(there), torch.tensor(astray), visible
        self.calls = []

    def __call__(self, frame0, frame1, points, seed=0):
        forward = bool(frame1.mean() > frame0.mean())
        self.calls.append((forward, points.shape[1], seed))
        xy = points + (self.there if forward else self.astray - self.there)
        seen = torch.full_like(xy[..., 0], self.visible, dtype=torch.bool)
        return Traces(xy=xy, visible=seen, peak_kl=points.sum(-1))


class Notebook(dict):
    """A memory in memory."""

    recall = dict.get
    keep = dict.__setitem__


def dark_and_bright(height=32, width=48):
    return torch.zeros(3, height, width), torch.ones(3, height, width)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shift_cells", [(4, 0), (-2, 6), (0, -4)])
def test_the_flow_of_an_exact_model_is_its_shift_wherever_the_target_is_in_view(
    shift_cells, stride
):
    model = ShiftOracle(shift_cells=shift_cells, patch_px=8, code_px=4)
    frame0, frame1 = model.frames(64, 96, seed=0)
    field = dense_flow(KLTracer(model), frame0, frame1, (8, 12), stride=stride, how=ONE_WAY)
    shift = 4.0 * torch.tensor(shift_cells)
    landed = field.points + shift
    stays = ((landed > 0) & (landed < torch.tensor([96.0, 64.0]))).all(-1)
    assert 0.5 < stays.float().mean() <= 1
    assert (field.grid_flow.movedim(0, -1)[stays] == shift).all()
    # A pixel is exact where all queries that it lies between are.
    mixed = spread((~stays).double()[None], field.points, 64, 96)[0]
    exact = mixed == 0
    assert exact.float().mean() > 0.4
    assert torch.allclose(field.flow.movedim(0, -1)[exact], shift, atol=1e-4)


def test_queries_are_the_centers_of_the_patches():
    patches = PatchGrid(48, 80, 8, 8).patch_centers().unflatten(0, (6, 10))
    assert torch.equal(query_lattice((48, 80), (6, 10)), patches)
    assert torch.equal(query_lattice((48, 80), (6, 10), stride=2), patches[::2, ::2])
    assert torch.equal(query_lattice((48, 80), (6, 10), stride=3), patches[1::3, ::3])
    assert query_lattice((30, 50), (6, 10))[0, 1].tolist() == [7.5, 2.5]


@settings(max_examples=25, deadline=None)
@given(
    frame_hw=st.tuples(st.integers(2, 16), st.integers(2, 16)),
    grid_hw=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_interpolation_is_exact_for_affine_fields_and_equals_its_slow_twin(
    frame_hw, grid_hw, stride, seed
):
    points = query_lattice(frame_hw, grid_hw, stride).double()
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    # A single line of queries knows nothing of what changes across it.
    matrix[:, 0] *= points.shape[1] > 1
    matrix[:, 1] *= points.shape[0] > 1
    grid_flow = (points @ matrix.T).movedim(-1, 0)
    dense = spread(grid_flow, points.float(), *frame_hw)
    truth = (pixel_centers(*frame_hw).double() @ matrix.T).movedim(-1, 0)
    assert torch.allclose(dense, truth, atol=1e-4)
    noise = torch.rand(2, *points.shape[:2], generator=generator, dtype=torch.float64)
    for beyond in (True, False):
        fast = spread(noise, points.float(), *frame_hw, beyond=beyond)
        assert torch.allclose(
            fast, slow_spread(noise, points.float(), *frame_hw, beyond), atol=1e-5
        )
    assert fast.min() >= noise.min() - 1e-12 and fast.max() <= noise.max() + 1e-12


def test_confidence_halves_with_every_threshold_that_the_way_back_misses():
    frames = dark_and_bright()
    for astray, expected in (((0, 0), 1.0), ((0, 3), 0.5), ((6, 0), 0.25)):
        tracer = Crooked(astray=tuple(map(float, astray)))
        field = dense_flow(tracer, *frames, (4, 6), return_px=3.0)
        inside = field.points[..., 0] + 6 <= 48
        assert torch.allclose(field.grid_confidence[inside], torch.tensor(expected))
        assert (field.grid_confidence[~inside] == 0).all() and (~inside).any()
        assert bool(field.visible[:, :30].all()) == (expected >= 0.5)
    just_under = dense_flow(Crooked(astray=(0.0, 3.0)), *frames, (4, 6), return_px=2.99)
    assert not just_under.visible.any()


def test_the_default_threshold_is_the_longer_side_of_a_patch():
    frames = dark_and_bright(32, 96)
    assert dense_flow(Crooked(), *frames, (4, 6)).threshold_px == 16
    judged = ForwardBackward(Crooked(), return_px=2.5)
    assert dense_flow(judged, *frames, (4, 6)).threshold_px == 2.5


def test_a_pixel_whose_own_flow_leaves_the_frame_is_hidden():
    field = dense_flow(Crooked(there=(3.0, 0.0)), *dark_and_bright(), (4, 6), how=ONE_WAY)
    assert (field.grid_confidence == 1).all()  # every query stays
    assert field.visible[:, :45].all() and not field.visible[:, 45:].any()
    assert torch.equal(field.visible, field.confidence >= 0.5)


def test_confidence_stays_that_of_the_outermost_queries_up_to_the_border():
    wavering = torch.tensor([0.0, 1.0, 2.0, 4.0]).repeat(6)[:, None] * torch.tensor([0.0, 1.0])
    tracer = Crooked(there=(0.0, 0.0), astray=wavering.tolist())
    field = dense_flow(tracer, *dark_and_bright(), (4, 6))
    expected = [2 ** -(d / 8) for d in (0.0, 1.0, 2.0, 4.0)]
    assert field.grid_confidence[0, :4].tolist() == pytest.approx(expected)
    assert torch.equal(field.confidence[:4, :4], field.grid_confidence[0, 0].expand(4, 4))
    assert 0 <= field.confidence.min() <= field.confidence.max() <= 1


def test_what_the_tracer_calls_hidden_is_hidden():
    field = dense_flow(Crooked(visible=False), *dark_and_bright(), (4, 6))
    assert not field.visible.any() and (field.confidence == 0).all()


def test_the_way_back_starts_where_points_landed_and_draws_masks_of_its_own():
    tracer = Crooked()
    field = dense_flow(tracer, *dark_and_bright(), (4, 6), how=Asking(seed=7, back=True))
    (there, back) = tracer.calls
    assert there == (True, 24, 7)
    assert back[:2] == (False, 20) and back[2] != 7  # four landed outside
    assert field.return_px.isinf().sum() == 4
    tracer = Crooked()
    dense_flow(ForwardBackward(tracer), *dark_and_bright(), (4, 6))
    assert len(tracer.calls) == 2  # a tracer that goes back by itself is not sent twice


@pytest.mark.parametrize("block", [1, 5, 24, 100])
def test_the_size_of_blocks_changes_nothing(block):
    whole = dense_flow(Crooked(), *dark_and_bright(), (4, 6))
    parts = dense_flow(Crooked(), *dark_and_bright(), (4, 6), how=Asking(back=True, block=block))
    for name in ("flow", "confidence", "peak_kl", "return_px"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


def test_nothing_is_asked_twice():
    told, memory = [], Notebook()
    how = Asking(block=10, memory=memory, tell=lambda count, known: told.append((count, known)))
    first = dense_flow(Crooked(), *dark_and_bright(), (4, 6), how=how)
    assert told == [(10, False), (10, False), (4, False)]
    del memory["points-000001"]
    tracer = Crooked()
    again = dense_flow(tracer, *dark_and_bright(), (4, 6), how=how)
    assert [points for _, points, _ in tracer.calls] == [10]
    assert told[3:] == [(10, True), (10, False), (4, True)]
    assert torch.equal(first.flow, again.flow) and torch.equal(first.peak_kl, again.peak_kl)


def test_a_model_of_another_size_answers_in_px_of_the_frames():
    model = ShiftOracle(shift_cells=(2, 0), patch_px=8, code_px=4)
    frames = [f.repeat_interleave(2, -2).repeat_interleave(3, -1) for f in model.frames(64, 64, 0)]
    field = dense_flow(Resized(KLTracer(model), (64, 64)), *frames, (8, 8), how=ONE_WAY)
    assert field.points[0, 0].tolist() == [12.0, 8.0]
    assert (field.grid_flow[:, :, :7] == torch.tensor([24.0, 0.0])[:, None, None]).all()
    assert field.points_per_second > 0


def test_bad_questions_are_refused():
    dark, bright = dark_and_bright()
    with pytest.raises((ValueError, TypeCheckError)):
        dense_flow(Crooked(), dark, bright[..., 1:], (4, 6))
    broken = dark.clone()
    broken[0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        dense_flow(Crooked(), broken, bright, (4, 6))
    with pytest.raises(ValueError, match="stride=0"):
        dense_flow(Crooked(), dark, bright, (4, 6), stride=0)
    with pytest.raises(ValueError, match="return_px=0"):
        dense_flow(Crooked(), dark, bright, (4, 6), return_px=0.0)
    with pytest.raises(ValueError, match="block=0"):
        Asking(block=0)
