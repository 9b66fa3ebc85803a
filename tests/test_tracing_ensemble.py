"""Zoom: several scales against slow twins, what is asked at each, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from benchmarks.exact import zoomed_oracle_epe
from tests.reference.slow_tracing import RandomModel
from tests.reference.slow_zoom import slow_zoom, zwm_flow
from tracing.config import TracerConfig, Traces
from tracing.crops import box_round, resize, to_crop
from tracing.ensemble import SALT, Zoom, ZoomConfig, alike
from tracing.kl_tracer import KLTracer
from tracing.oracle import MatchingOracle
from tracing.tracers import kl_tracer, rgb_tracer

PLAIN = TracerConfig(num_masks=2, retry=False)


def scene(hw, batch=1, points=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(2, batch, 3, 6, 6, generator=generator).flatten(0, 1)
    frames = resize(0.7 * frames, hw).unflatten(0, (2, batch))
    xy = torch.rand(batch, points, 2, generator=generator) * torch.tensor([hw[1], hw[0]])
    return frames[0], frames[1], xy.clamp_min(0.1)


class Scripted:
    """Says that every query is ``step`` px away from where it is; keeps what it was asked."""

    name = "scripted"

    def __init__(self, step, patches=64, flipped=1, peak=1.0):
        self.step, self.patches = torch.tensor(step), patches
        self.flipped, self.peak, self.asked = flipped, peak, []

    def __call__(self, frame0, frame1, points, seed=0, keep_hidden=None, near=None):
        self.asked.append((frame0, frame1, points, seed, keep_hidden))
        full = torch.full(points.shape[:2], float(self.peak))
        return Traces(
            xy=points + self.step,
            visible=full >= 0.5,
            peak_kl=full,
            maps=full[..., None, None].expand(-1, -1, 8, 8),
            flipped_codes=full.new_full(full.shape, self.flipped).long(),
            never_hidden=torch.zeros(len(points), self.patches, dtype=torch.bool),
        )


@pytest.mark.parametrize("hw", [(37, 53), (12, 20), (16, 24), (30, 30)])
@pytest.mark.parametrize("placement, peak", [("patch", "centroid"), ("query", "argmax")])
def test_zoom_is_its_slow_twin(hw, placement, peak):
    model, model_hw = RandomModel(4, 2), (16, 24)
    cfg = replace(PLAIN, placement=placement, peak=peak)
    frame0, frame1, points = scene(hw)
    zoom = ZoomConfig(scales=3, factor=0.6, keep_hidden_px=None)
    traces = kl_tracer(model, cfg, zoom=zoom).at(model_hw)(frame0, frame1, points, seed=3)
    for n, query in enumerate(points[0].numpy()):
        pair = frame0[0].numpy(), frame1[0].numpy()
        slow = slow_zoom(model, *pair, query, model_hw, cfg, 3, 0.6, seed=3)
        assert traces.xy[0, n].numpy() == pytest.approx(slow, abs=1e-3)


@pytest.mark.parametrize("hw", [(24, 41), (40, 30), (26, 26)])
@pytest.mark.parametrize(
    "model, masks, share",
    [(MatchingOracle(4, 4), 1, 0.1), (RandomModel(4, 4), 1, 0.1), (RandomModel(4, 4), 3, 0.0)],
)
def test_the_published_zoom_is_the_text_written_out(hw, model, masks, share):
    # Where a patch is hidden by all masks or by none, the mean over the masks that hid it, ours,
    # is the mean over all masks, theirs.
    cfg = TracerConfig(
        sigma_px=2.0,
        round="truncate_uint8",
        placement="query",
        isolated=False,
        num_masks=masks,
        reveal_ratio=share,
        peak="argmax",
        occlusion_threshold=0.01,
        retry=False,
    )
    zoom = ZoomConfig(
        scales=5,
        factor=0.75,
        cut_from="previous",
        eight_bit=True,
        occlusion_from="last",
        keep_hidden_px=None,
    )
    frame0, frame1, points = scene(hw, seed=1)
    traces = rgb_tracer(model, cfg, zoom=zoom).at((24, 24))(frame0, frame1, points, seed=5)
    for n, query in enumerate(points[0].numpy().astype(np.float64)):
        pair = frame0[0].numpy(), frame1[0].numpy()
        xy, peak = zwm_flow(model, *pair, query, 24, masks, share, seed=5)
        assert traces.xy[0, n].numpy() == pytest.approx(xy, abs=2e-3)
        assert traces.peak_kl[0, n].item() == pytest.approx(peak, rel=1e-3, abs=1e-6)
        assert traces.visible[0, n] == (peak >= 0.01)


def test_the_published_windows_are_those_of_the_paper():
    inner = Scripted((0.0, 0.0))
    cfg = ZoomConfig(scales=5, factor=0.75, cut_from="previous", keep_hidden_px=None)
    zoom = Zoom(inner, inner, 8, cfg, (256, 256))
    assert zoom.crop_sizes((480, 854)) == [(480, 480)] + [(192, 192)] * 3
    # ramps that rise by 1 over 854 px to the right and down: how steep they look tells the window
    x, y = torch.arange(854.0) / 854, torch.arange(480.0)[:, None] / 854
    frames = torch.stack([x.expand(480, 854), y.expand(480, 854), 0 * x.expand(480, 854)])[None]
    zoom(frames, frames, torch.tensor([[[400.5, 200.5]]]))
    for asked, window in zip(inner.asked[1:], (480, 360, 270, 202.5), strict=True):
        (to_right, down, _), far, near = asked[0][0], 228, 28
        steps = to_right[128, far] - to_right[128, near], down[far, 128] - down[near, 128]
        seen = [854 * step.item() / (far - near) * 256 for step in steps]
        assert seen == pytest.approx([window, window], rel=1e-3)


def test_native_crops_halve_both_sides_and_stay_sharp():
    inner = Scripted((0.0, 0.0))
    zoom = Zoom(inner, inner, 8, ZoomConfig(scales=4, factor=0.5), (64, 64))
    assert zoom.crop_sizes((480, 854)) == [(240, 427), (120, 214), (60, 107)]
    frames = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    zoom(frames, frames, torch.tensor([[[21.0, 40.0]]]))
    last = inner.asked[-1][0]
    assert torch.allclose(last, resize(frames[..., 36:44, 17:25], (64, 64)))


@pytest.mark.parametrize("eight_bit", [True, False])
def test_a_tracer_of_no_height_changes_nothing_however_frames_are_stored(eight_bit):
    cfg = replace(PLAIN, amplitude=0.0, round="truncate_uint8", isolated=False)
    frame0, frame1, points = scene((20, 36))
    zoom = ZoomConfig(scales=3, eight_bit=eight_bit, keep_hidden_px=None)
    tracer = kl_tracer(RandomModel(4, 2, num_codes=255), cfg, zoom=zoom).at((16, 24))
    assert torch.allclose(tracer(frame0, frame1, points).xy, points, atol=1e-4)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_stretched_frames_and_crops_have_whole_8_bit_levels_where_asked(eight_bit):
    frame0, frame1, points = scene((20, 36))
    inner = Scripted((0.0, 0.0))
    zoom = ZoomConfig(scales=3, eight_bit=eight_bit, keep_hidden_px=None)
    Zoom(inner, inner, 4, zoom, (16, 24))(frame0, frame1, points)
    assert len(inner.asked) == 3
    for levels in (frame * 255 for asked in inner.asked for frame in asked[:2]):
        assert torch.allclose(levels, levels.round(), atol=1e-3) == eight_bit


def test_one_scale_is_the_tracer_on_stretched_frames():
    model = RandomModel(4, 2)
    frame0, frame1, points = scene((20, 36), batch=2)
    inner = KLTracer(model, PLAIN)
    one = Zoom(inner, inner, 4, ZoomConfig(), (16, 24))(frame0, frame1, points, seed=2)
    scale = torch.tensor([24 / 36, 16 / 20])
    plain = inner(*(resize(f, (16, 24)) for f in (frame0, frame1)), points * scale, seed=2)
    assert torch.allclose(one.xy, plain.xy / scale, atol=1e-5)
    assert torch.equal(one.peak_kl, plain.peak_kl) and one.kept_hidden_share is None


def test_answers_do_not_depend_on_how_many_crops_are_traced_at_a_time():
    frame0, frame1, points = scene((37, 53), batch=2, points=4)
    answers = []
    for max_crops in (1, 3, 32):
        zoom = ZoomConfig(scales=3, max_crops=max_crops, keep_hidden_px=3.0)
        tracer = kl_tracer(RandomModel(4, 2), PLAIN, zoom=zoom).at((16, 24))
        answers.append(tracer(frame0, frame1, points, seed=1))
    for other in answers[1:]:
        assert torch.allclose(other.xy, answers[0].xy, atol=1e-4)
        assert torch.equal(other.kept_hidden_share, answers[0].kept_hidden_share)


def test_every_scale_has_masks_of_its_own():
    inner = Scripted((1.0, 0.0))
    frame0, frame1, points = scene((32, 32))
    Zoom(inner, inner, 4, ZoomConfig(scales=3))(frame0, frame1, points, seed=7)
    assert [asked[3] for asked in inner.asked] == [7, 7 + SALT, 7 + 2 * SALT]


def test_steps_of_all_scales_add_up_in_native_pixels():
    frame0, frame1, _ = scene((64, 128))
    points = torch.tensor([[[60.0, 30.0]]])
    inner = Scripted((3.0, -1.0))
    zoom = Zoom(inner, inner, 4, ZoomConfig(scales=3, keep_hidden_px=None), (32, 32))
    # px of 32x32 are (4, 2) native at the first scale, half of it at each next
    moved = zoom(frame0, frame1, points).xy - points
    total = torch.tensor([3.0, -1.0]) * torch.tensor([4.0, 2.0]) * (1 + 1 / 2 + 1 / 4)
    assert (moved[0, 0] - total).abs().max() <= 1.0  # boxes are of whole pixels: half of one each


@pytest.mark.parametrize("lost", [{"flipped": 0}, {"peak": 0.0}])
def test_a_crop_that_says_nothing_leaves_the_estimate(lost):
    frame0, frame1, points = scene((32, 32))
    whole = Scripted((2.0, 1.0))
    zoom = Zoom(whole, Scripted((5.0, 5.0), **lost), 4, ZoomConfig(scales=3))
    assert torch.allclose(zoom(frame0, frame1, points).xy, points + whole.step)
    found = Zoom(whole, Scripted((5.0, 5.0)), 4, ZoomConfig(scales=3))
    assert not torch.allclose(found(frame0, frame1, points).xy, points + whole.step)


def test_visibility_is_of_the_scale_that_was_asked_for():
    frame0, frame1, points = scene((32, 32))
    whole, crops = Scripted((0.0, 0.0), peak=0.9), Scripted((0.0, 0.0), peak=0.1)
    by = {
        scale: Zoom(whole, crops, 4, ZoomConfig(scales=2, occlusion_from=scale))(
            frame0, frame1, points
        )
        for scale in ("first", "last")
    }
    assert by["first"].visible.all() and not by["last"].visible.any()
    assert (by["first"].peak_kl == 0.9).all() and torch.allclose(
        by["last"].peak_kl, torch.tensor(0.1)
    )
    assert (by["last"].maps == 0.9).all()  # of the whole frame, always


class Watched(MatchingOracle):
    """Keeps the reveal masks it is given."""

    def frame1_logits(self, codes0, codes1, reveal, order0, order1, read_out):
        self.reveals.append(reveal)
        return super().frame1_logits(codes0, codes1, reveal, order0, order1, read_out)


@pytest.mark.parametrize("reach", [None, 0.0, 4.0, 5.0])
def test_patches_near_the_estimate_are_never_revealed_in_crops(reach):
    model = Watched(4, 4)
    frame0, frame1 = (f[None] for f in model.sliding_frames(48, 48, (0.0, 0.0), 0))
    model.reveals = []
    zoom = ZoomConfig(scales=2, keep_hidden_px=reach)
    cfg = TracerConfig(num_masks=60, reveal_ratio=0.25)
    traces = kl_tracer(model, cfg, zoom=zoom)(frame0, frame1, torch.tensor([[[24.0, 24.0]]]))
    # The estimate stays in the middle of the crop, at a corner of four patches.
    near = torch.zeros(12, 12, dtype=torch.bool)
    for row in range(12):
        for col in range(12):
            gap = torch.tensor([max(4 * k - 24, 24 - 4 * k - 4, 0) for k in (row, col)])
            near[row, col] = gap.float().norm() < (reach or 0)
    whole = torch.cat(model.reveals[: len(model.reveals) // 2])
    crops = torch.cat(model.reveals[len(model.reveals) // 2 :])
    shown = crops.any(0).unflatten(0, (12, 12))
    assert whole.any(0).all() and crops.sum(1).eq(36).all()
    assert torch.equal(shown, ~near)
    if reach:
        assert 4 <= near.sum() < 30
        assert traces.kept_hidden_share.item() == pytest.approx(near.double().mean().item())
    else:
        assert traces.kept_hidden_share is None


def test_every_row_keeps_its_own_neighborhood_hidden():
    inner = Scripted((0.0, 0.0))
    frame0, frame1, points = scene((32, 32), batch=2, points=3)
    Zoom(inner, inner, 4, ZoomConfig(scales=2, keep_hidden_px=4.0))(frame0, frame1, points)
    _, _, asked, _, kept = inner.asked[1]
    assert asked.shape == (6, 1, 2) and kept.shape == (6, 64)
    # Still, so the estimate is the query: its own patch is hidden, and what is far is not.
    own = (asked[:, 0] // 4).long().clamp(0, 7)
    rows = torch.arange(6)
    assert kept[rows, own[:, 1] * 8 + own[:, 0]].all()
    far = 7 * (own < 4)
    assert not kept[rows, far[:, 1] * 8 + far[:, 0]].any()


def test_two_scales_beat_what_one_can_name():
    two_scales, floor = zoomed_oracle_epe()
    assert two_scales < 0.75 * floor


def test_the_matching_oracle_knows_motion_by_whole_cells_without_being_told():
    model = MatchingOracle(4, 4)
    frame0, frame1 = model.sliding_frames(48, 48, (8.0, -4.0), 1)
    points = torch.tensor([[[20.0, 24.0], [30.5, 21.25]]])
    traces = kl_tracer(model, PLAIN)(frame0[None], frame1[None], points)
    assert torch.allclose(traces.xy - points, torch.tensor([8.0, -4.0]).expand(1, 2, 2))


def test_the_matching_oracle_looks_at_revealed_cells_alone():
    model = MatchingOracle(4, 4)
    codes0, codes1 = torch.randint(64, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    reveal = torch.arange(64)[None] % 5 == 0
    other = torch.where(reveal.view(1, 8, 8), codes1, codes0)  # all else says: nothing moved
    order = torch.arange(64)[None]
    one, same = (
        model.frame1_logits(codes0, codes, reveal, order, order, "all") for codes in (codes1, other)
    )
    assert torch.equal(one.nan_to_num(), same.nan_to_num())


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"scales": 0}, "scales=0"),
        ({"factor": 1.0}, "factor=1.0"),
        ({"factor": 0.0}, "factor=0.0"),
        ({"num_masks": 0}, "num_masks=0"),
        ({"keep_hidden_px": -1.0}, "keep_hidden_px=-1.0"),
        ({"cut_from": "here"}, "cut_from"),
        ({"occlusion_from": "best"}, "occlusion_from"),
        ({"max_crops": 0}, "max_crops=0"),
    ],
)
def test_a_wrong_setting_is_named(wrong, said):
    with pytest.raises((ValueError, TypeCheckError), match=said):
        ZoomConfig(**wrong)


@pytest.mark.parametrize("cut_from", ["native", "previous"])
def test_scales_that_would_look_at_a_speck_are_refused(cut_from):
    inner = Scripted((0.0, 0.0))
    frame0, frame1, points = scene((20, 32))
    zoom = Zoom(inner, inner, 4, ZoomConfig(scales=9, cut_from=cut_from), (32, 32))
    with pytest.raises(ValueError, match=r"20x32 px, less than 2; use at most scales=(\d)") as told:
        zoom(frame0, frame1, points)
    most = int(str(told.value)[-2])
    fits = Zoom(inner, inner, 4, ZoomConfig(scales=most, cut_from=cut_from), (32, 32))
    assert fits(frame0, frame1, points).xy.isfinite().all()


def test_a_question_nobody_can_answer_is_refused_before_anything_is_cut():
    inner = Scripted((0.0, 0.0))
    frame0, frame1, points = scene((20, 32))
    zoom = Zoom(inner, inner, 4, ZoomConfig(scales=2), (32, 32))
    with pytest.raises(ValueError, match="NaN"):
        zoom(frame0, frame1.masked_fill(frame1 > 0.5, torch.nan), points)
    with pytest.raises(ValueError, match="outside the frame"):
        zoom(frame0, frame1, points + 30)
    with pytest.raises(Exception, match=r"one shape|frame1"):
        zoom(frame0, frame1[..., 1:], points)
    assert not inner.asked
    assert zoom(frame0, frame1, points[:, :0]).xy.shape == (1, 0, 2)


AT_BORDERS = [((3.0, 30.0), (9.5, 26.0)), ((61.0, 2.0), (50.0, 5.5))]


@pytest.mark.parametrize("query, estimate", AT_BORDERS)
def test_a_right_estimate_leaves_no_motion_in_crops_at_the_border(query, estimate):
    query, estimate = torch.tensor([query]), torch.tensor([estimate])
    centers = alike(query, estimate, (32, 32), (64, 64))
    boxes = [box_round(center, (32, 32), (64, 64)) for center in centers]
    seen = [to_crop(at, box, (64, 64)) for at, box in zip((query, estimate), boxes, strict=True)]
    assert (seen[0] - seen[1]).abs().max() <= 2.0  # two px of a crop twice as large: whole pixels
    alone = [box_round(at, (32, 32), (64, 64)) for at in (query, estimate)]
    pushed = [to_crop(at, box, (64, 64)) for at, box in zip((query, estimate), alone, strict=True)]
    assert (pushed[0] - pushed[1]).abs().max() > 8.0


def test_query_and_estimate_are_never_outside_their_own_crops():
    draw = torch.Generator().manual_seed(7)
    query, estimate = torch.rand(2, 20_000, 2, generator=draw) * 64
    estimate[:200, 0] = 0.0
    estimate[200:400, 1] = 64.0
    for at, center in zip(
        (query, estimate), alike(query, estimate, (32, 32), (64, 64)), strict=True
    ):
        inside = to_crop(at, box_round(center, (32, 32), (64, 64)), (64, 64))
        assert (inside >= 0).all() and (inside <= 64).all()
