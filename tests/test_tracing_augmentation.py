"""Mirrored and recolored guises: the same motion, other codes, one mean map."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from tests.forking_models import loud_model
from tests.reference.slow_augmentation import disguised, mean_map
from tracing.augmentation import GUISES, SALT, UPRIGHT, Augmented
from tracing.config import TracerConfig, Traces
from tracing.engine import KLEngine
from tracing.ensemble import Zoom, ZoomConfig
from tracing.oracle import MatchingOracle
from tracing.readout import answer
from tracing.rgb_tracer import RGBTracer
from tracing.tracers import TracerSetup, kl_tracer, rgb_tracer

FRAMES = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MODEL = loud_model(patch_px=4, size=16)
POINTS = torch.tensor([[[2.5, 5.5], [9.5, 14.5]], [[12.5, 0.5], [6.5, 7.5]]])


@dataclass
class Recorder:
    """Answers nothing and writes down what it was asked."""

    name: str = "recorder"
    asked: list = field(default_factory=list)

    def __call__(self, frame0, frame1, points, seed, keep_hidden, near) -> Traces:
        self.asked.append((frame0, frame1, points, seed, keep_hidden, near))
        shape = points.shape[:2]
        return Traces(
            xy=points,
            visible=torch.ones(shape, dtype=torch.bool),
            peak_kl=torch.zeros(shape),
            maps=torch.zeros(*shape, 4, 4, dtype=torch.float64),
            flipped_codes=torch.full(shape, len(self.asked)),
            never_hidden=torch.zeros(len(points), 16, dtype=torch.bool),
        )


def test_the_answer_is_that_of_maps_averaged_by_hand():
    """Few masks, so that some patches are never hidden in one guise and are in others."""
    model = MODEL
    cfg = TracerConfig(num_masks=1, reveal_ratio=0.4)
    one = kl_tracer(model, cfg)
    ours = kl_tracer(model, cfg, augmentations=8)(*FRAMES, POINTS, seed=3)
    every = []
    for number, guise in enumerate(GUISES):
        frames = [
            torch.stack([torch.tensor(disguised(number, f.numpy())) for f in frame])
            for frame in FRAMES
        ]
        every.append(one(*frames, guise.points(POINTS, (16, 16)), seed=3 + number * SALT))
    assert all((traces.peak_kl > 0).all() for traces in every)
    known = [(~traces.never_hidden).view(2, 4, 4).numpy() for traces in every]
    assert any(not guise.all() for guise in known)
    for pair in range(2):
        hidden = [guise[pair] for guise in known]
        for n in range(2):
            slow = torch.tensor(mean_map([t.maps[pair, n].numpy() for t in every], hidden))
            torch.testing.assert_close(ours.maps[pair, n], slow)
    can_win = ~ours.never_hidden.view(2, 1, 4, 4)
    grid = one._grid(FRAMES[0])
    xy, peak = answer(ours.maps, can_win, POINTS, grid, cfg)
    assert torch.equal(ours.xy, xy) and torch.equal(ours.peak_kl, peak)
    assert torch.equal(ours.flipped_codes, torch.stack([t.flipped_codes for t in every]).amax(0))


@pytest.mark.parametrize("number", range(len(GUISES)))
def test_a_pixel_is_where_the_guise_says_its_center_is(number):
    guise, frame = GUISES[number], torch.zeros(1, 3, 16, 16)
    frame[0, :, 3, 12] = torch.tensor([0.2, 0.5, 0.9])
    x, y = guise.points(torch.tensor([12.5, 3.5]), (16, 16)).tolist()
    seen = guise.image(frame)[0, :, int(y), int(x)]
    assert sorted(seen.tolist()) == pytest.approx([0.2, 0.5, 0.9])
    assert torch.equal(seen, frame[0, list(guise.channels), 3, 12])
    assert torch.equal(guise.undo(guise.raster(frame)), frame)


@pytest.mark.parametrize("num", [1, 2, UPRIGHT, 8])
def test_an_exact_model_gives_the_same_answer_in_every_guise(num):
    model = MatchingOracle(4, 4)
    frames = [f[None] for f in model.sliding_frames(32, 32, (4.0, -8.0), seed=1)]
    points = torch.tensor([[[10.5, 14.5], [18.5, 21.5]]])
    cfg = TracerConfig(num_masks=4, peak="argmax")
    traces = kl_tracer(model, cfg, augmentations=num)(*frames, points)
    torch.testing.assert_close(traces.xy, points + torch.tensor([4.0, -8.0]))


def test_patches_and_places_are_told_to_each_guise_as_it_sees_them():
    keep = torch.zeros(2, 16, dtype=torch.bool)
    keep[:, 1] = True  # first row, second column
    tracer = Augmented(recorder := Recorder(), TracerConfig(), 8, 4)
    edge = torch.tensor([[[8.0, 3.0]], [[8.0, 3.0]]])  # on the border of two patches
    traces = tracer(*FRAMES, edge, seed=5, keep_hidden=keep, near=torch.full((2, 1, 2), 2.5))
    at = {
        (False, False): (0, 1),
        (True, False): (0, 2),
        (False, True): (3, 1),
        (True, True): (3, 2),
    }
    for guise, asked in zip(GUISES, recorder.asked, strict=True):
        row, col = at[guise.mirror_x, guise.mirror_y]
        row, col = (col, row) if guise.transpose else (row, col)
        assert asked[4].nonzero().tolist() == [[0, 4 * row + col], [1, 4 * row + col]]
        x, y = (2.5, 16 - 2.5)[guise.mirror_x], (2.5, 16 - 2.5)[guise.mirror_y]
        assert asked[5][0, 0].tolist() == ([y, x] if guise.transpose else [x, y])
        center = torch.tensor([10.0, 2.0]).expand(2, 1, 2)
        assert torch.equal(asked[2], guise.points(center, (16, 16)))
    assert len({asked[3] for asked in recorder.asked}) == 8 and recorder.asked[0][3] == 5
    assert torch.equal(recorder.asked[0][0], FRAMES[0]) and (traces.flipped_codes == 8).all()


def test_a_window_holds_in_the_mean_too():
    cfg = TracerConfig(num_masks=3, window_px=3.0)
    # The RGB tracer's maps know of no window: only the answer does.
    rgb = rgb_tracer(MODEL, cfg, augmentations=8)(*FRAMES, POINTS)
    free = rgb_tracer(MODEL, replace(cfg, window_px=None), augmentations=8)(*FRAMES, POINTS)
    assert ((rgb.xy - POINTS).abs() <= 4).all() and ((free.xy - POINTS).abs() > 4).any()
    traces = kl_tracer(MODEL, cfg, augmentations=8)(*FRAMES, POINTS)
    centers = torch.tensor([2.0, 6.0, 10.0, 14.0])
    away_x = (centers[None, None, None] - POINTS[..., 0, None, None]).abs().expand(2, 2, 4, 4)
    away_y = (centers[None, None, :, None] - POINTS[..., 1, None, None]).abs().expand(2, 2, 4, 4)
    assert (traces.maps[torch.maximum(away_x, away_y) > 3.0] == 0).all()


def test_every_scale_and_both_tracers_ask_all_guises():
    zoom = ZoomConfig(scales=2, num_masks=2, keep_hidden_px=2.0)
    setup = TracerSetup(cfg=TracerConfig(num_masks=3), zoom=zoom, augmentations=3)
    for tracer, kind in ((setup.kl(MODEL), KLEngine), (setup.rgb(MODEL), RGBTracer)):
        assert isinstance(tracer, Zoom)
        for part in (tracer.on_whole, tracer.on_crops):
            assert isinstance(part, Augmented) and len(part.guises) == 3
            assert isinstance(part.tracer, kind)
        assert tracer(*FRAMES, POINTS).xy.isfinite().all()
    assert setup.about()["augmentations"] == 3 and "augmentations" not in TracerSetup().about()
    assert isinstance(kl_tracer(MODEL), KLEngine)
    assert isinstance(rgb_tracer(MODEL, augmentations=2), Augmented)


@pytest.mark.parametrize(
    ("num", "other", "said"),
    [
        (0, {}, "from 1 to 8"),
        (9, {}, "from 1 to 8"),
        (2, {"placement": "query"}, "needs placement=patch"),
        (2, {"search": "coarse_to_fine"}, "search=full"),
    ],
)
def test_what_cannot_be_averaged_is_refused_before_anything_runs(num, other, said):
    cfg = TracerConfig(**other)
    with pytest.raises(ValueError, match=said):
        TracerSetup(cfg=cfg, augmentations=num)
    if num:
        with pytest.raises(ValueError, match=said):
            kl_tracer(MODEL, cfg, augmentations=num)
    TracerSetup(cfg=cfg, augmentations=1)


def test_what_is_no_whole_number_is_refused_by_name():
    with pytest.raises((ValueError, TypeError), match="augmentations"):
        TracerSetup(augmentations="two")


def test_oblong_frames_are_mirrored_but_not_transposed():
    frames, points = FRAMES[..., :8, :], POINTS * torch.tensor([1.0, 0.5])
    assert kl_tracer(MODEL, augmentations=UPRIGHT)(*frames, points).xy.isfinite().all()
    with pytest.raises(ValueError, match="must be square, got 8x16 px; use augmentations=4"):
        kl_tracer(MODEL, augmentations=5)(*frames, points)
