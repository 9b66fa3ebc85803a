"""Exact oracles and slow twins: the batched tracers answer what the obvious algorithm answers."""

import dataclasses
import doctest

import numpy as np
import pytest
import torch

import tracing.trace
from tests.reference.slow_tracing import RandomModel, slow_trace_point
from tracing.inputs import check_frames
from tracing.kl_tracer import KLTracer
from tracing.oracle import ShiftOracle
from tracing.planting import ATTEMPTS
from tracing.protocol import NextFrameModel
from tracing.rgb_tracer import RGBTracer
from tracing.trace import TracerConfig, trace, trace_point, trace_points

GEOMETRIES = [(64, 4, 4), (128, 8, 4), (256, 8, 4)]


def random_pair(size, seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, batch, 3, size, size, generator=generator).unbind(0)


def oracle_case(size, patch_px, code_px, shift_cells, read_out, placement):
    """Oracle, frames, queries at cell centers well inside, and the exact displacement in px."""
    oracle = ShiftOracle(shift_cells, patch_px, code_px)
    frame0, frame1 = oracle.frames(size, size, seed=1)
    # First-code read-out stands at first cells: start in one and move by whole patches.
    step = patch_px if read_out == "first" and placement == "query" else code_px
    cells = torch.tensor([[6.0, 7.0], [8.0, 7.0], [9.0, 10.0]])
    points = (cells * code_px // step) * step + code_px / 2
    return oracle, frame0, frame1, points, torch.tensor(shift_cells) * float(code_px)


@pytest.mark.parametrize("size, patch_px, code_px", GEOMETRIES)
@pytest.mark.parametrize("placement", ["patch", "query"])
@pytest.mark.parametrize("read_out", ["all", "first"])
@pytest.mark.parametrize("shift_patches", [(0, 0), (1, 0), (0, -2), (-1, 2), (2, 1)])
def test_whole_patch_translation_is_traced_exactly(
    size, patch_px, code_px, placement, read_out, shift_patches
):
    shift = tuple(s * patch_px // code_px for s in shift_patches)
    oracle, frame0, frame1, points, moved = oracle_case(
        size, patch_px, code_px, shift, read_out, placement
    )
    cfg = TracerConfig(placement=placement, read_out=read_out)

    traces = trace(oracle, frame0, frame1, points, cfg, seed=3)

    assert (traces.xy[0] - points).tolist() == [moved.tolist()] * len(points)
    assert (traces.peak_kl > 0).all() and traces.visible.all()


@pytest.mark.parametrize("size, patch_px, code_px", GEOMETRIES)
@pytest.mark.parametrize("shift_cells", [(1, 0), (0, -1), (-3, 2), (3, 3)])
@pytest.mark.parametrize("isolated", [True, False])
def test_whole_cell_translation_is_traced_to_the_cell(
    size, patch_px, code_px, shift_cells, isolated
):
    oracle, frame0, frame1, points, moved = oracle_case(
        size, patch_px, code_px, shift_cells, "all", "query"
    )
    cfg = TracerConfig(placement="query", isolated=isolated)

    traces = trace(oracle, frame0, frame1, points, cfg)

    assert (traces.xy[0] - points).tolist() == [moved.tolist()] * len(points)
    assert traces.flipped_codes.tolist() == [[1, 1, 1]]


def test_first_codes_follow_any_cell_that_lands_on_a_first_cell():
    oracle = ShiftOracle((1, 1), 8, 4)
    points = torch.tensor([[30.0, 30.0], [22.0, 46.0]])  # last cells of their patches
    cfg = TracerConfig(placement="query", read_out="first")

    traces = trace(oracle, *oracle.frames(64, 64, seed=1), points, cfg)

    assert (traces.xy[0] - points).tolist() == [[4.0, 4.0]] * 2


@pytest.mark.parametrize("placement", ["patch", "query"])
@pytest.mark.parametrize("peak", ["argmax", "centroid"])
def test_published_style_tracer_follows_the_oracle(placement, peak):
    oracle, frame0, frame1, points, moved = oracle_case(64, 8, 4, (2, -2), "all", placement)
    published = TracerConfig(
        placement=placement, peak=peak, isolated=False, round="truncate_uint8", sigma_px=2.0,
        direction="clean_perturbed", num_masks=5, reveal_ratio=0.1,
    )  # fmt: skip

    traces = trace(oracle, frame0, frame1, points, published)

    # A sigma of half a cell changes the neighbors too: the arg-max stays exact, a centroid near.
    slack = 0.0 if peak == "argmax" else 1.0
    assert (traces.xy[0] - points - moved).abs().max() <= slack


def test_slow_algorithm_reads_the_same_oracle_exactly():
    oracle, frame0, frame1, points, moved = oracle_case(64, 8, 4, (2, 4), "all", "patch")

    traces = trace_points(oracle, frame0, frame1, points)

    assert (traces.xy[0] - points).tolist() == [moved.tolist()] * len(points)
    assert (traces.flipped_codes == 4).all()  # the four cells round the patch center


RANDOM = {"order0": "random"}  # as the tracers that share no prefix
TWIN_CONFIGS = [
    TracerConfig(**RANDOM, num_masks=3),
    TracerConfig(**RANDOM, num_masks=3, placement="query"),
    TracerConfig(
        **RANDOM, num_masks=2, placement="query", read_out="first", direction="clean_perturbed"
    ),
    TracerConfig(
        **RANDOM, num_masks=2, read_out="first", direction="perturbed_clean", peak="argmax"
    ),
    TracerConfig(
        **RANDOM, num_masks=3, isolated=False, sigma_px=2.5, reveal_ratio=0.6, placement="query"
    ),
    TracerConfig(**RANDOM, num_masks=1, reveal_ratio=0.0, amplitude=-0.7),
]


@pytest.mark.parametrize("cfg", TWIN_CONFIGS, ids=str)
@pytest.mark.parametrize("patch_px, code_px", [(4, 4), (8, 4)])
def test_batched_tracer_equals_the_slow_twin(cfg, patch_px, code_px):
    model = RandomModel(patch_px, code_px)
    frame0, frame1 = random_pair(24, batch=2)
    generator = torch.Generator().manual_seed(5)
    points = 24 * torch.rand(2, 3, 2, generator=generator)

    traces = KLTracer(model, cfg, max_batch=4)(frame0, frame1, points, seed=11)

    for b, n in np.ndindex(2, 3):
        xy, heat, flipped = slow_trace_point(
            model, frame0[b].numpy(), frame1[b].numpy(), points[b, n].numpy(), cfg, seed=11
        )
        slow_map, fast_map = torch.from_numpy(heat), traces.maps[b, n]
        assert (fast_map - slow_map).abs().max() <= max(1e-5 * heat.max(), 1e-6)
        assert fast_map.argmax() == slow_map.argmax()
        assert traces.xy[b, n].tolist() == pytest.approx(xy.tolist(), abs=1e-3)
        assert traces.flipped_codes[b, n] == flipped


@pytest.mark.parametrize("cfg", TWIN_CONFIGS, ids=str)
def test_batched_tracer_equals_the_readable_algorithm(cfg):
    model = RandomModel(8, 4)
    frame0, frame1 = random_pair(32)
    points = 32 * torch.rand(4, 2, generator=torch.Generator().manual_seed(2))

    fast = trace(model, frame0[0], frame1[0], points, cfg, seed=7)
    slow = trace_points(model, frame0[0], frame1[0], points, cfg, seed=7)

    torch.testing.assert_close(fast.maps, slow.maps, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast.xy, slow.xy, rtol=0, atol=1e-3)
    assert torch.equal(fast.flipped_codes, slow.flipped_codes)
    assert torch.equal(fast.never_hidden, slow.never_hidden)


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_size_of_micro_batches_does_not_matter(max_batch):
    model = RandomModel(8, 4)
    frame0, frame1 = random_pair(32, batch=2)
    points = 32 * torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(2))
    cfg = TracerConfig(num_masks=3)

    expected = KLTracer(model, cfg, max_batch=1000)(frame0, frame1, points)
    got = KLTracer(model, cfg, max_batch=max_batch)(frame0, frame1, points)

    torch.testing.assert_close(got.maps, expected.maps, rtol=1e-5, atol=1e-7)


def test_clean_branch_is_computed_once_per_pair_and_mask():
    model = RandomModel(8, 4)
    frame0, frame1 = random_pair(32, batch=2)
    points = torch.tensor([[12.0, 12.0], [20.0, 4.0], [28.0, 20.0]]).repeat(2, 1, 1)

    traces = KLTracer(model, TracerConfig(num_masks=4))(frame0, frame1, points)

    assert (traces.flipped_codes > 0).all()
    assert model.forwards == 2 * 4 * (1 + 3)


@pytest.mark.parametrize("tracer", [KLTracer, RGBTracer])
@pytest.mark.parametrize("placement", ["patch", "query"])
def test_zero_amplitude_answers_zero_displacement(tracer, placement):
    oracle, frame0, frame1, points, _ = oracle_case(64, 8, 4, (2, 0), "all", placement)
    cfg = TracerConfig(amplitude=0.0, placement=placement, occlusion_threshold=1e-9)

    traces = tracer(oracle, cfg)(frame0[None], frame1[None], points[None])

    assert torch.equal(traces.xy[0], points)
    assert not traces.maps.any() and not traces.peak_kl.any() and not traces.visible.any()
    assert not traces.flipped_codes.any()
    slow = trace_points(oracle, frame0, frame1, points, cfg)  # runs both branches all the same
    assert torch.equal(slow.xy[0], points) and not slow.visible.any()


def test_tracer_that_flips_no_code_costs_no_forward():
    model = RandomModel(8, 4)
    frame0, frame1 = random_pair(32)
    KLTracer(model, TracerConfig(amplitude=0.0))(frame0, frame1, torch.full((1, 2, 2), 12.0))
    assert model.forwards == 0


def test_white_tracer_on_a_white_wall_flips_nothing_and_a_dark_one_is_planted():
    oracle = ShiftOracle((2, 0), 8, 4)
    white = torch.ones(1, 3, 64, 64)
    points = torch.tensor([[[30.0, 30.0]]])

    lost = KLTracer(oracle, TracerConfig(retry=False))(white, white, points)
    found = KLTracer(oracle, TracerConfig())(white, white, points)

    assert lost.flipped_codes.item() == 0 and torch.equal(lost.xy, points)
    assert ATTEMPTS[lost.attempt] == "none" and ATTEMPTS[found.attempt] == "dark"
    assert found.flipped_codes.item() == 4 and found.xy.tolist() == [[[38.0, 30.0]]]


def test_revealed_target_cannot_win_and_is_an_error():
    oracle, frame0, frame1, _, _ = oracle_case(32, 8, 4, (2, 0), "all", "patch")
    cfg = TracerConfig(num_masks=1, reveal_ratio=0.5)
    centers = [[8.0 * c + 4, 8.0 * r + 4] for r in range(4) for c in range(3)]
    points = torch.tensor(centers)

    traces = trace(oracle, frame0, frame1, points, cfg, seed=4)

    shown = traces.never_hidden[0].view(4, 4)
    target_shown = torch.tensor([bool(shown[r, c + 1]) for r in range(4) for c in range(3)])
    right = (traces.xy[0] == points + torch.tensor([8.0, 0.0])).all(-1)
    assert shown.sum() == 8 and target_shown.any()
    assert torch.equal(right, ~target_shown)
    assert not traces.maps[0].masked_select(shown).any()


def test_each_patch_is_averaged_over_the_masks_that_hid_it():
    """The oracle's KL is the same under every mask, so revealing must not dilute the mean."""
    oracle, frame0, frame1, points, _ = oracle_case(64, 8, 4, (2, 0), "all", "patch")

    dense = trace(oracle, frame0, frame1, points, TracerConfig(reveal_ratio=0.0, num_masks=1))
    sparse = trace(oracle, frame0, frame1, points, TracerConfig(reveal_ratio=0.6, num_masks=9))

    assert not sparse.never_hidden.all()
    torch.testing.assert_close(sparse.peak_kl, dense.peak_kl, rtol=1e-12, atol=0)


def test_random_point_control_loses_the_point():
    oracle, frame0, frame1, points, moved = oracle_case(128, 8, 4, (2, 0), "all", "patch")
    control = KLTracer(oracle, TracerConfig(), control="random_point")

    first = control(frame0[None], frame1[None], points[None], seed=0)
    again = control(frame0[None], frame1[None], points[None], seed=0)

    error = (first.xy[0] - points - moved).norm(dim=-1)
    assert torch.equal(first.xy, again.xy) and error.mean() > moved.norm()
    assert control.name == "kl_random_point"


@pytest.mark.parametrize("size, patch_px, code_px", GEOMETRIES)
@pytest.mark.parametrize("placement", ["patch", "query"])
def test_rgb_tracer_follows_the_oracle_through_the_same_path(size, patch_px, code_px, placement):
    shift = (2, -2)
    oracle, frame0, frame1, points, moved = oracle_case(
        size, patch_px, code_px, shift, "all", placement
    )

    traces = RGBTracer(oracle, TracerConfig(placement=placement))(
        frame0[None], frame1[None], points[None]
    )

    assert (traces.xy[0] - points).tolist() == [moved.tolist()] * len(points)


def test_rgb_map_is_the_l2_norm_over_channels_averaged_over_pixels():
    model = RandomModel(8, 4)
    clean, perturbed = random_pair(32)
    got = RGBTracer(model, TracerConfig()).difference(clean, perturbed)
    pixels = ((clean.double() - perturbed.double()) ** 2).sum(1).sqrt()
    assert got.shape == (1, 8, 8)
    assert got[0, 2, 5].item() == pytest.approx(pixels[0, 8:12, 20:24].mean().item(), rel=1e-12)


def test_rgb_tracer_wants_all_codes():
    with pytest.raises(ValueError, match="read_out='all'"):
        RGBTracer(RandomModel(8, 4), TracerConfig(read_out="first"))


def test_one_point_under_one_mask_gives_a_map_and_a_count():
    oracle, frame0, frame1, points, _ = oracle_case(64, 8, 4, (2, 0), "all", "query")
    reveal, order = torch.zeros(64, dtype=torch.bool), torch.arange(64)
    cfg = TracerConfig(placement="query")

    kl, flipped = trace_point(oracle, frame0, frame1, points[0], reveal, order, order, cfg)

    assert kl.shape == (16, 16) and (kl > 0).sum() == 1 and flipped == 1
    assert kl.argmax().item() == 7 * 16 + 8  # the query's cell is row 7, column 6


def test_no_points_give_empty_traces():
    oracle, frame0, frame1, _, _ = oracle_case(64, 8, 4, (2, 0), "all", "patch")
    traces = trace(oracle, frame0, frame1, torch.zeros(0, 2))
    assert traces.xy.shape == (1, 0, 2) and traces.maps.shape == (1, 0, 8, 8)


def test_frames_that_cannot_be_a_pair_are_refused():
    # With the shape checker on, it objects first, with its own error.
    points, frame = torch.zeros(1, 1, 2), torch.zeros(1, 3, 64, 64)
    tracer = KLTracer(ShiftOracle((0, 0), 8, 4))
    with pytest.raises((ValueError, TypeError)):
        tracer(frame, torch.zeros(1, 3, 32, 64), points)
    with pytest.raises((ValueError, TypeError)):
        tracer(frame.byte(), frame.byte(), points)
    with pytest.raises(ValueError, match=r"one shape.*resize"):
        check_frames(frame, torch.zeros(1, 3, 32, 64))
    with pytest.raises(ValueError, match="divide by 255"):
        check_frames(frame.byte(), frame.byte())


def test_oracles_satisfy_the_protocol():
    assert isinstance(ShiftOracle((0, 0), 8, 4), NextFrameModel)
    assert isinstance(RandomModel(8, 4), NextFrameModel)


@pytest.mark.parametrize(
    "wrong",
    [
        {"placement": "corner"},
        {"read_out": "last"},
        {"peak": "mean"},
        {"direction": "both"},
        {"round": "nearest"},
        {"sigma_px": 0.0},
        {"num_masks": 0},
        {"reveal_ratio": 1.0},
    ],
    ids=str,
)
def test_config_names_what_is_wrong(wrong):
    # The run-time shape checker may object to a wrong literal before the config does.
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        dataclasses.replace(TracerConfig(), **wrong)


def test_example_of_trace_runs():
    results = doctest.testmod(tracing.trace)
    assert results.attempted and not results.failed
