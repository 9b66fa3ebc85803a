"""The engine answers what the readable algorithm answers, and each option does what it says."""

from dataclasses import replace

import pytest
import torch

from lras.grid import PatchGrid
from lras.official.read_out import PatchParallelNextFrame
from tests.forking_models import BlurOracle, ForkingOracle, Watched, loud_model
from tests.reference.slow_engine import slow_maps
from tests.reference.slow_tracing import RandomModel
from tracing.config import TracerConfig
from tracing.engine import EngineConfig, KLEngine
from tracing.kl_tracer import KLTracer
from tracing.oracle import ShiftOracle
from tracing.planting import plant
from tracing.protocol import ForkingModel
from tracing.readout import map_positions, patches_to_map, to_map
from tracing.reveal import masks_of_pairs
from tracing.search import within_window
from tracing.trace import trace_points
from tracing.two_branch import random_points

KINDS = [(flavor, patch_px) for flavor in ("modern", "official") for patch_px in (4, 8)]
ROOM = EngineConfig(max_tokens=2**17)  # enough for one group of all queries
CONFIGS = {
    "default": {"num_masks": 3},
    "published": {
        "num_masks": 2,
        "read_out": "first",
        "placement": "query",
        "isolated": False,
        "peak": "argmax",
        "direction": "clean_perturbed",
        "round": "truncate_uint8",
        "sigma_px": 2.0,
        "reveal_ratio": 0.1,
    },
    "cells": {"num_masks": 2, "placement": "query", "direction": "perturbed_clean"},
    "nothing revealed": {"num_masks": 2, "reveal_ratio": 0.0},
    "silent": {"num_masks": 2, "retry": False, "isolated": False, "reveal_ratio": 0.6},
    "window": {"num_masks": 3, "window_px": 9.0, "reveal_ratio": 0.4, "read_out": "first"},
    "dark, seen": {"num_masks": 1, "amplitude": -0.7, "occlusion_threshold": 0.02},
}


def question(size=32, batch=2, points=4, seed=0):
    """Frames and points; the second pair's frame 0 is white on top, where bumps change nothing."""
    generator = torch.Generator().manual_seed(seed)
    frame0, frame1 = torch.rand(2, batch, 3, size, size, generator=generator)
    xy = size * torch.rand(batch, points, 2, generator=generator)
    if batch > 1:
        frame0[1, :, : size // 2] = 1.0
        xy[1, :, 1] = size * torch.where(torch.arange(points) < 2, 0.2, 0.75)
    return frame0, frame1, xy


def assert_same(got, slow, rel=1e-5, nats=1e-6):
    """Maps within max(rel of the peak, nats), the same arg-max, hence the same answers."""
    allowed = (rel * slow.maps.flatten(2).amax(-1)).clamp_min(nats)
    apart = (got.maps - slow.maps).abs().flatten(2).amax(-1)
    worst = float((apart / allowed).max())
    assert worst <= 1
    assert torch.equal(got.maps.flatten(2).argmax(-1), slow.maps.flatten(2).argmax(-1))
    torch.testing.assert_close(got.peak_kl, slow.peak_kl, rtol=rel, atol=nats)
    torch.testing.assert_close(got.xy, slow.xy, rtol=0, atol=1e-2)
    assert torch.equal(got.visible, slow.visible)
    assert torch.equal(got.flipped_codes, slow.flipped_codes)
    assert torch.equal(got.never_hidden, slow.never_hidden)


def readable(model, frame0, frame1, points, cfg, seed, max_group=64):
    """``trace_points`` on every pair, stacked; maps are 0 where the engine does not ask."""
    pairs = [
        trace_points(model, *pair, cfg, seed, max_group)
        for pair in zip(frame0, frame1, points, strict=True)
    ]
    fields = ("xy", "visible", "peak_kl", "maps", "flipped_codes", "never_hidden")
    stacked = {field: torch.cat([getattr(pair, field) for pair in pairs]) for field in fields}
    grid = PatchGrid(*frame0.shape[-2:], model.patch_px, model.code_px)
    near = patches_to_map(within_window(points, grid, cfg.window_px), grid, cfg)
    stacked["maps"] = stacked["maps"].masked_fill(~near, 0.0)
    return replace(pairs[0], **stacked)


@pytest.mark.parametrize("flavor, patch_px", KINDS[1:3])
@pytest.mark.parametrize("cfg", CONFIGS)
def test_engine_equals_the_readable_algorithm(flavor, patch_px, cfg):
    model, cfg = loud_model(flavor, patch_px), TracerConfig(**CONFIGS[cfg])
    asked = question()

    fast = KLEngine(model, cfg, ROOM)(*asked, seed=7)
    slow = readable(model, *asked, cfg, seed=7)

    assert slow.peak_kl.max() > 1e-4
    assert_same(fast, slow)


@pytest.mark.parametrize("flavor, patch_px", [KINDS[0], KINDS[3]])
@pytest.mark.parametrize("cfg", ["default", "published", "silent"])
def test_in_float64_they_agree_to_a_billionth(flavor, patch_px, cfg):
    model, cfg = loud_model(flavor, patch_px), TracerConfig(**CONFIGS[cfg])
    model.predictor.double()
    asked = question()

    fast = KLEngine(model, cfg, ROOM)(*asked, seed=7)

    assert_same(fast, readable(model, *asked, cfg, seed=7), rel=1e-9, nats=1e-9)


def test_silent_queries_are_in_no_group_and_answer_their_own_place():
    frame0, frame1, points = question()
    cfg = TracerConfig(**CONFIGS["silent"])
    traces = KLEngine(loud_model(), cfg)(frame0, frame1, points)
    silent = traces.flipped_codes == 0
    assert silent.tolist() == [[False] * 4, [True] * 2 + [False] * 2]
    assert torch.equal(traces.xy[silent], points[silent])
    assert not traces.maps[silent].any() and traces.maps[~silent].flatten(1).any(1).all()


# Without float noise: a model that lists what it was given, and answers from the whole list.


@pytest.mark.parametrize("patch_px, max_group", [(4, 64), (8, 2)])
@pytest.mark.parametrize("cfg", CONFIGS)
def test_every_token_reaches_every_branch_in_its_order(patch_px, cfg, max_group):
    model, cfg = ForkingOracle(RandomModel(patch_px, 4)), TracerConfig(**CONFIGS[cfg])
    asked = question(24, batch=2, points=5)
    engine = EngineConfig(max_tokens=2**17, max_group=max_group)

    fast = KLEngine(model, cfg, engine)(*asked, seed=3)

    assert_same(fast, readable(model, *asked, cfg, 3, max_group), rel=1e-12, nats=1e-12)


@pytest.mark.parametrize("placement", ["patch", "query"])
@pytest.mark.parametrize("control", ["none", "random_point"])
@pytest.mark.parametrize("kept", [False, True])
def test_engine_equals_the_batched_tracer_where_orders_say_nothing(placement, control, kept):
    model, cfg = ForkingOracle(ShiftOracle((2, -2), 8, 4)), TracerConfig(placement=placement)
    frame0, frame1, points = question(48, batch=3, points=6)
    keep_hidden = torch.rand(3, 36, generator=torch.Generator().manual_seed(1)) < 0.3
    more = {"seed": 5, "keep_hidden": keep_hidden if kept else None}

    fast = KLEngine(model, cfg, control=control)(frame0, frame1, points, **more)
    batched = KLTracer(model, cfg, control=control)(frame0, frame1, points, **more)

    assert_same(fast, batched, rel=1e-12, nats=1e-12)
    assert torch.equal(fast.attempt, batched.attempt)


def test_random_point_control_traces_another_point_and_answers_for_the_query():
    model, (frame0, frame1, points) = loud_model(), question()
    engine = KLEngine(model, TracerConfig(num_masks=2), ROOM, control="random_point")
    traces = engine(frame0, frame1, points, seed=9)

    elsewhere = random_points(points, 32, 32, 9)
    expected = KLEngine(model, TracerConfig(num_masks=2), ROOM)(frame0, frame1, elsewhere, seed=9)
    source, other = (model.predictor.cfg.grid.patch_index(p) for p in (points, elsewhere))
    centers = model.predictor.cfg.grid.patch_centers()
    assert engine.name == "kl_random_point" and not torch.equal(source, other)
    assert torch.equal(traces.maps, expected.maps)
    moved = expected.xy - elsewhere + centers[other] - centers[source]
    torch.testing.assert_close(traces.xy - points, moved, rtol=0, atol=1e-4)


# The slow twin: one sequence, one mask that says which token sees which.


def twin(model, frame0, frame1, points, cfg, seed, keep_hidden=None):
    """Maps of the slow twin for a batch of pairs."""
    grid = model.predictor.cfg.grid
    masks = masks_of_pairs(
        len(frame0), grid.num_patches, cfg.num_masks, cfg.reveal_ratio, seed, keep_hidden
    )
    codes0, codes1 = model.encode(frame0), model.encode(frame1)
    planted = plant(model, frame0, codes0, points, cfg).codes
    maps = []
    for b in range(len(frame0)):
        one = slice(b, b + 1)
        by_patch = slow_maps(model, codes0[one], codes1[one], planted[b], masks[b], cfg)
        flat = PatchGrid(grid.rows, grid.cols, 1, 1)
        maps.append(
            to_map((grid if by_patch.shape[-1] > 1 else flat).to_cells(by_patch), grid, cfg)
        )
    return torch.stack(maps)


@pytest.mark.parametrize("flavor, patch_px", KINDS[1:3])
@pytest.mark.parametrize("revealed", ["after", "before", "clean"])
@pytest.mark.parametrize("read_out", ["first", "all"])
def test_tokens_see_what_the_option_says(flavor, patch_px, revealed, read_out):
    size = 16 if patch_px == 4 else 24
    model = loud_model(flavor, patch_px, size, gain=1.2)
    asked = question(size, batch=1, points=3)
    cfg = TracerConfig(
        num_masks=2, reveal_ratio=0.4, revealed=revealed, read_out=read_out, isolated=False
    )

    fast = KLEngine(model, cfg, ROOM)(*asked, seed=2)

    with torch.no_grad():
        slow = twin(model, *asked, cfg, seed=2)
    allowed = max(1e-6, 1e-5 * slow.max().item())
    assert (fast.maps - slow).abs().max() <= allowed
    others = [r for r in ("after", "before", "clean") if r != revealed]
    for other in others:  # each option changes the answer
        changed = KLEngine(model, replace(cfg, revealed=other), ROOM)(*asked, seed=2).maps
        assert (changed - fast.maps).abs().max() > 20 * allowed


def test_where_nothing_is_revealed_it_does_not_matter_what_revealed_patches_see():
    model, asked = loud_model(), question()
    after, *others = (
        KLEngine(model, TracerConfig(num_masks=1, reveal_ratio=0.0, revealed=revealed))(*asked)
        for revealed in ("after", "before", "clean")
    )
    for other in others:
        assert torch.equal(after.maps, other.maps)


def test_patches_kept_hidden_are_asked_under_every_mask():
    model, (frame0, frame1, points) = loud_model(size=24), question(24, points=3)
    keep_hidden = torch.zeros(2, 9, dtype=torch.bool)
    keep_hidden[0, [0, 4, 5]], keep_hidden[1, [8]] = True, True
    cfg = TracerConfig(num_masks=3, reveal_ratio=0.6, read_out="first")

    traces = KLEngine(model, cfg)(frame0, frame1, points, 6, keep_hidden)

    with torch.no_grad():
        slow = twin(model, frame0, frame1, points, cfg, 6, keep_hidden)
    assert (traces.maps - slow).abs().max() <= max(1e-6, 1e-5 * slow.max().item())
    assert not (traces.never_hidden & keep_hidden).any()
    free = KLEngine(model, cfg)(frame0, frame1, points, 6)
    assert (traces.maps - free.maps).abs().max() > 1e-5


# Which patches are asked.


@pytest.mark.parametrize("read_out", ["first", "all"])
@pytest.mark.parametrize("shift", [(0, 0), (4, -2), (-6, 6)])
def test_coarse_to_fine_asks_fewer_patches_and_answers_the_same(read_out, shift):
    model = ForkingOracle(BlurOracle(shift, 8, 4, sharpness=40.0))
    frame0, frame1, _ = question(96, batch=1, points=1, seed=1)
    points = torch.tensor([[[52.0, 44.0], [36.0, 60.0], [60.0, 28.0]]])
    cfg = TracerConfig(num_masks=4, reveal_ratio=0.1, read_out=read_out, sigma_px=2.0)
    answers, asked = [], []
    for search in ("full", "coarse_to_fine"):
        watched = Watched(model)
        traces = KLEngine(watched, replace(cfg, search=search))(frame0, frame1, points)
        answers.append(traces)
        asked.append(watched.num_asked)
    assert torch.equal(*(t.xy for t in answers)) and torch.equal(*(t.peak_kl for t in answers))
    assert asked[1] < 0.6 * asked[0]
    full, coarse = (t.maps for t in answers)
    assert torch.equal(coarse[coarse > 0], full[coarse > 0])
    assert (coarse > 0).sum() < 0.6 * (full > 0).sum()


def test_a_patch_of_a_coarse_search_is_asked_once_under_every_mask_that_hides_it():
    model = Watched(ForkingOracle(BlurOracle((0, 0), 8, 4, sharpness=40.0)))
    cfg = TracerConfig(num_masks=1, reveal_ratio=0.2, search="coarse_to_fine")
    frame0, frame1, points = question(64, batch=1, points=1)
    KLEngine(model, cfg)(frame0, frame1, points)
    asked = torch.cat([read.flatten() for read in model.asked])
    assert asked.bincount().max() == 2  # by the clean and by the perturbed branch


@pytest.mark.parametrize("placement", ["patch", "query"])
@pytest.mark.parametrize("search", ["full", "coarse_to_fine"])
def test_nothing_outside_the_window_is_asked_or_answered(placement, search):
    model, (frame0, frame1, points) = loud_model("modern", 4), question(points=6)
    cfg = TracerConfig(num_masks=2, placement=placement, peak="argmax", read_out="first")
    near = KLEngine(model, replace(cfg, window_px=6.0, search=search))(frame0, frame1, points)
    far = KLEngine(model, cfg)(frame0, frame1, points)

    grid = model.predictor.cfg.grid
    inside = patches_to_map(within_window(points, grid, 6.0), grid, cfg)
    assert not near.maps[~inside].any() and far.maps[~inside].any()
    centers = map_positions(grid, cfg)
    away = (near.xy - points).abs().amax(-1)
    assert away.max() <= 6 + 4 and (far.xy - points).abs().max() > 6 + 4
    if search == "full":
        torch.testing.assert_close(near.maps[inside], far.maps[inside], rtol=1e-5, atol=1e-6)
    assert centers.shape == (8, 8, 2)


@pytest.mark.parametrize("search", ["full", "coarse_to_fine"])
@pytest.mark.parametrize("num_masks", [1, 4])
def test_a_window_that_a_mask_reveals_whole_asks_nothing_under_it(search, num_masks):
    model, (frame0, frame1, points) = loud_model(), question(batch=1, points=4)
    cfg = TracerConfig(num_masks=num_masks, reveal_ratio=0.6, window_px=1.0, search=search)
    slow = readable(model, frame0, frame1, points, replace(cfg, search="full"), seed=1)
    for row in range(4):  # alone, so that no other query asks
        one = slice(row, row + 1)
        fast = KLEngine(model, cfg)(frame0, frame1, points[:, one], seed=1)
        torch.testing.assert_close(fast.xy, slow.xy[:, one], rtol=0, atol=1e-2)
    if num_masks == 1:  # nothing could win
        assert (slow.peak_kl == 0).any()


# Odds and ends.


@pytest.mark.parametrize("attention", ["math", "flex", "kernel"])
def test_attention_backends_answer_the_same(attention):
    model, asked = loud_model(), question(batch=1)
    expected = KLEngine(model, TracerConfig(num_masks=1))(*asked)
    model.attention = attention
    assert_same(KLEngine(model, TracerConfig(num_masks=1))(*asked), expected)


def test_unknown_attention_is_refused():
    model = loud_model()
    model.attention = "fused"
    with pytest.raises((ValueError, TypeError), match="fused"):
        KLEngine(model)(*question(batch=1))


def test_no_queries_give_empty_traces():
    frame0, frame1, _ = question()
    traces = KLEngine(loud_model(), TracerConfig(num_masks=2))(frame0, frame1, torch.zeros(2, 0, 2))
    assert traces.xy.shape == (2, 0, 2) and traces.maps.shape == (2, 0, 4, 4)
    assert traces.never_hidden.shape == (2, 16)


def test_frames_that_are_not_square_are_traced():
    model = loud_model()
    frame0, frame1, points = question(48, batch=1)
    frame0, frame1, points = frame0[..., :24, :], frame1[..., :24, :], points * 0.5
    cfg = TracerConfig(num_masks=2, placement="query")
    fast = KLEngine(model, cfg, ROOM)(frame0, frame1, points)
    assert fast.maps.shape == (1, 4, 6, 12)
    assert_same(fast, readable(model, frame0, frame1, points, cfg, 0))


def test_a_model_that_cannot_fork_and_random_orders_are_refused():
    model = loud_model("official")
    published = PatchParallelNextFrame(model.quantizer, model.predictor)
    assert isinstance(model, ForkingModel) and not published.forks
    with pytest.raises(ValueError, match=r"forks=False and order0=changed_last; use KLTracer"):
        KLEngine(published)
    with pytest.raises(ValueError, match=r"forks=True and order0=random; use KLTracer"):
        KLEngine(model, TracerConfig(order0="random"))


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_group": 0}], ids=str)
def test_a_bound_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="both must be at least 1"):
        EngineConfig(**wrong)
