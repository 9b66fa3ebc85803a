"""Questions that no tracer can answer are refused in one sentence, by every tracer alike."""

import pytest
import torch
from jaxtyping import TypeCheckError

from data.coords import rescale_points
from tests.tiny_model import tiny_model
from tracing.baselines import DIS, ZeroMotion
from tracing.benchmarks.flow import Resized
from tracing.config import TracerConfig
from tracing.consistency import ForwardBackward
from tracing.engine import KLEngine
from tracing.ensemble import ZoomConfig
from tracing.inputs import check_question, inside_frame
from tracing.kl_tracer import KLTracer
from tracing.oracle import ShiftOracle
from tracing.reveal import draw_masks
from tracing.rgb_tracer import RGBTracer
from tracing.tracers import kl_tracer

HEIGHT, WIDTH = 32, 48
CFG = TracerConfig(num_masks=1)


def oracle():
    return ShiftOracle((1, 1), 8, 4)


TRACERS = {
    "kl": lambda: KLTracer(oracle(), CFG),
    "engine": lambda: KLEngine(tiny_model().eval(), CFG),
    "rgb": lambda: RGBTracer(oracle(), CFG),
    "zoom": lambda: kl_tracer(oracle(), CFG, zoom=ZoomConfig(scales=2)),
    "forward_backward": lambda: ForwardBackward(KLTracer(oracle(), CFG)),
}


def question(batch=1):
    frame0, frame1 = (f.expand(batch, -1, -1, -1) for f in oracle().frames(HEIGHT, WIDTH, seed=0))
    return frame0.clone(), frame1.clone(), torch.full((batch, 2, 2), 9.0)


def with_pixel(value):
    frame0, frame1, points = question()
    frame1[0, 1, 3, 4] = value
    return frame0, frame1, points


def with_query(x, y):
    frame0, frame1, points = question()
    points[0, 1] = torch.tensor([x, y])
    return frame0, frame1, points


WRONG = {
    "NaN in a frame": (with_pixel(torch.nan), "frame 1 holds 1 values that are NaN.*mend"),
    "infinity in a frame": (with_pixel(torch.inf), "frame 1 holds 1 values that are NaN"),
    "8-bit values as floats": (with_pixel(255.0), "frame 1 has values from 0 to 255.*divide"),
    "right of the frame": (
        with_query(48.5, 3.0),
        r"query 1 is at x=48\.5, y=3, outside the frame of 48x32 px \(width x height\).*0 to 48",
    ),
    "below the frame": (with_query(3.0, 40.0), "query 1 is at x=3, y=40, outside"),
    "left of the frame": (with_query(-0.1, 3.0), "query 1 is at x=-0.1"),
    "no number": (with_query(torch.nan, 3.0), "query 1 is at x=nan"),
}


@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_every_tracer_refuses_in_one_sentence(tracer, wrong):
    asked, sentence = WRONG[wrong]
    with pytest.raises(ValueError, match=sentence) as caught:
        TRACERS[tracer]()(*asked)
    assert "\n" not in str(caught.value)


MISSHAPED = {
    "sizes": (lambda a, b, p: (a, b[..., :16, :], p), r"one shape.*\(1, 3, 16, 48\).*resize"),
    "integers": (lambda a, b, p: ((255 * a).byte(), b, p), "uint8.*divide by 255"),
    "gray": (lambda a, b, p: (a[:, :1], b[:, :1], p), r"\(batch, 3, height, width\).*channels"),
    "no batch": (lambda a, b, p: (a[0], b[0], p), "add a batch axis"),
    "one list of points": (lambda a, b, p: (a, b, p[0]), r"points must be.*got .*\(2, 2\)"),
    "another batch": (lambda a, b, p: (a, b, p.repeat(2, 1, 1)), r"a batch of 1.*\(2, 2, 2\)"),
    "whole pixels": (lambda a, b, p: (a, b, p.long()), "points must be float.*int64"),
}


@pytest.mark.parametrize("wrong", MISSHAPED)
def test_what_is_misshaped_is_refused_in_one_sentence(wrong):
    change, sentence = MISSHAPED[wrong]
    with pytest.raises(ValueError, match=sentence) as caught:
        check_question(*change(*question()))
    assert "\n" not in str(caught.value)
    for tracer in TRACERS.values():  # the run-time shape checker may object first
        with pytest.raises((ValueError, TypeCheckError)):
            tracer()(*change(*question()))


def test_the_pair_of_a_bad_query_is_named_where_there_are_several():
    frame0, frame1, points = question(batch=3)
    points[2, 0, 0] = 100.0
    with pytest.raises(ValueError, match="query 0 of pair 2 is at x=100, y=9"):
        check_question(frame0, frame1, points)


def test_the_whole_border_belongs_to_the_frame():
    frame0, frame1, _ = question()
    corners = torch.tensor([[0.0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]])
    check_question(frame0, frame1, corners[None])
    assert inside_frame(corners, (HEIGHT, WIDTH)).all()
    outside = corners + torch.tensor([[0, -0.01], [0.01, 0], [-0.01, 0], [0, 0.01]])
    assert not inside_frame(outside, (HEIGHT, WIDTH)).any()
    assert not inside_frame(torch.tensor([[HEIGHT, WIDTH]]).float(), (HEIGHT, WIDTH)).any()


def test_points_on_the_border_survive_any_resize_of_their_frame():
    sides = torch.arange(3, 2000, 7)
    for native in sides.tolist():
        corner = rescale_points(torch.tensor([[float(native)] * 2]), (native,) * 2, (WIDTH,) * 2)
        frame = torch.zeros(1, 3, WIDTH, WIDTH)
        check_question(frame, frame, corner[None])


@pytest.mark.parametrize("tracer", TRACERS)
def test_no_points_have_an_empty_answer(tracer):
    frames = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    traces = TRACERS[tracer]()(*frames, torch.zeros(2, 0, 2))
    assert traces.xy.shape == (2, 0, 2) and traces.visible.shape == (2, 0)


def test_the_question_is_left_as_it_was_and_border_points_are_traced():
    frame0, frame1, _ = question()
    points = torch.tensor([[[float(WIDTH), float(HEIGHT)], [0.0, 0.0]]])
    asked = [frame0.clone(), frame1.clone(), points.clone()]
    traces = KLTracer(oracle(), CFG)(frame0, frame1, points)
    assert traces.xy.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip((frame0, frame1, points), asked, strict=True))


def test_baselines_answer_outside_the_frame_as_they_always_did():
    frame0, frame1, points = with_query(60.0, 3.0)
    for tracer in (ZeroMotion(), DIS(), Resized(DIS(), (16, 16))):
        assert tracer(frame0, frame1, points).xy.shape == points.shape


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_reveal_ratio_that_hides_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=r"reveal_ratio=.*is not in \[0, 1\)"):
        TracerConfig(reveal_ratio=ratio)


def test_more_revealed_patches_than_patches_are_refused():
    with pytest.raises(ValueError, match="reveals 24 of 16 patches"):
        draw_masks(16, 1, 1.5, seed=0)
    frames = oracle().frames(16, 16, seed=0)[0].expand(2, 1, -1, -1, -1)
    with pytest.raises(ValueError, match=r"reveals 4 of 4 patches.*stay hidden"):
        # 0.9 is a ratio like another, but of four patches it leaves none
        KLTracer(oracle(), TracerConfig(reveal_ratio=0.9))(*frames, torch.full((1, 1, 2), 4.0))
