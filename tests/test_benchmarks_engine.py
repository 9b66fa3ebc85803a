"""The harness that measures the engine: it must count what is executed and see what is wrong."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import claims, claims_engine, measure_engine, tracing, tracing_rows
from benchmarks.claim import NotMeasuredError
from benchmarks.meter import Meter
from benchmarks.result_file import CANNOT_MEASURE_HERE
from benchmarks.tracing_layouts import NANO, Layout, dense, random_model, random_pair, scattered
from benchmarks.tracing_rows import BOTH, Bench, Case, Row, compare
from data.synthetic import SceneConfig
from lras.flops import prediction_flops, prediction_tokens
from tests.forking_models import loud_model
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import TracerConfig
from tracing.engine import EngineConfig, KLEngine
from tracing.ensemble import ZoomConfig
from tracing.protocol import ForkingModel
from tracing.tracers import kl_tracer

SMALL = Layout("small", "lras_micro", 32)  # 16 patches of four codes


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(SMALL, random_model(SMALL))


def test_a_metered_model_is_one_that_forks(bench):
    assert isinstance(bench.meter, ForkingModel)


@pytest.mark.parametrize("read_out", ["first", "all"])
def test_reading_by_parts_is_metered_as_the_whole_prediction(bench, read_out):
    grid, meter = bench.grid, Meter(bench.model)
    codes0, codes1 = meter.encode(bench.frame0), meter.encode(bench.frame1)
    order = torch.randperm(grid.num_patches)[None]
    reveal = torch.zeros_like(order, dtype=torch.bool)
    reveal[0, order[0, :3]] = True
    whole = meter.frame1_logits(codes0, codes1, reveal, order, order, read_out)
    spent = meter.tokens, meter.flops
    codes_read = 1 if read_out == "first" else grid.codes_per_patch
    sizes = bench.model.predictor.cfg, grid.num_patches, 3, codes_read
    assert spent == (prediction_tokens(*sizes), prediction_flops(*sizes))

    meter.reset()
    given = meter.extend(None, codes0, order[:, :9], 0)
    given = meter.extend(given, codes0, order[:, 9:], 0)
    given = meter.extend(given, codes1, order[:, :3], 1)
    parts = meter.read(given, codes1, order[:, 3:], read_out)
    assert (meter.tokens, meter.flops) == spent
    if read_out == "first":
        assert torch.allclose(parts[0, :, 0], whole.flatten(1, 2)[0, order[0, 3:]], atol=1e-4)


def test_rows_are_metered_one_by_one(bench):
    meter, order = Meter(bench.model), torch.arange(16)[None]
    codes = meter.encode(bench.frame0)
    given = meter.extend(None, codes, order, 0)
    one = meter.tokens, meter.flops
    meter.reset()
    meter.extend(None, codes.expand(3, -1, -1), order.expand(3, -1), 0)
    assert (meter.tokens, meter.flops) == (3 * one[0], 3 * one[1])
    meter.reset()
    meter.read(given, codes, order[:, :5], "first")
    alone = meter.flops
    meter.read(given, codes.expand(4, -1, -1), order[:, :5].expand(4, -1), "first")
    assert meter.flops == 5 * alone


def test_a_row_holds_what_engine_and_slow_reference_took_and_how_far_they_are_apart(bench):
    row = bench.measure(Case(SMALL, "first", "exact", 6, pairs=2, slow_queries=3))
    assert (len(row.fast_seconds), len(row.slow_seconds), row.compared) == (2, 2, 6)
    assert row.same_argmax == 6 and 0 < row.worst_difference < 1
    assert row.slow_tokens == 2 * (16 * 4 + 2 * 5 + 14)
    assert 1 < row.bound == row.slow_flops / row.fast_flops
    ratios = [s / f for s, f in zip(row.slow_seconds, row.fast_seconds, strict=True)]
    assert min(ratios) <= row.ratio <= max(ratios)
    assert row.efficiency == pytest.approx(row.ratio / row.bound)
    assert json.loads(json.dumps(row.as_dict()))["layout"] == "small"


def test_the_slow_reference_follows_the_order_of_each_querys_group(bench):
    """Groups of one query end in a patch of their own; another's order gives another map."""
    lone = Bench(SMALL, bench.model, EngineConfig(max_group=1))
    case = Case(SMALL, "first", "exact", 4, spread="dense")
    engine = lone.fast(case)
    traces = engine(lone.frame0, lone.frame1, lone.points(case), 0)
    own, other = Row(case, 4), Row(case, 4)
    compare(own, traces.maps[0, 0], lone.slow_answer(engine, case, 0))
    question, groups = engine.asked
    swapped = [(pair, group._replace(points=3 - group.points)) for pair, group in groups]
    engine.asked = question, swapped
    compare(other, traces.maps[0, 0], lone.slow_answer(engine, case, 0))
    assert own.worst_difference < 1 < other.worst_difference


def test_a_difference_is_measured_in_what_is_allowed():
    slow = torch.zeros(2, 2, dtype=torch.float64)
    slow[0, 1] = 0.5
    row = Row(Case(SMALL, "all", "exact", 1), 1)
    compare(row, slow + 1e-5, slow)
    assert row.worst_difference == pytest.approx(2.0) and row.same_argmax == 1
    compare(row, slow.flip(1), slow)
    assert row.worst_difference == pytest.approx(1e5) and row.same_argmax == 1
    quiet = Row(Case(SMALL, "all", "exact", 1), 1)
    compare(quiet, slow * 1e-3 + 5e-7, slow * 1e-3)
    assert quiet.worst_difference == pytest.approx(0.5)


def test_options_that_ask_another_question_are_not_compared(bench):
    row = bench.measure(Case(SMALL, "first", BOTH, 4))
    assert row.compared == 0 and row.as_dict()["smallest_peak_nats"] is None


def test_every_option_has_a_row_in_both_tables():
    for cases in (tracing_rows.quick_cases(), tracing_rows.whole_cases()):
        rows = {(case.layout.name, case.read_out, case.option) for case in cases}
        assert {(NANO.name, "all", option) for option in tracing_rows.OPTIONS} <= rows
        scarce = set(tracing_rows.OPTIONS) - {"flex attention"}
        assert {("large", r, option) for r in ("first", "all") for option in scarce} <= rows


def test_points_of_dense_rows_are_patch_centers_and_scattered_ones_stay_as_more_are_drawn(bench):
    some, every = dense(bench.grid, 4), dense(bench.grid, 16)
    assert some[0].tolist() == [[12.0, 12.0], [20.0, 12.0], [12.0, 20.0], [20.0, 20.0]]
    assert torch.equal(every[0], bench.grid.patch_centers())
    assert torch.equal(scattered(SMALL, 3), scattered(SMALL, 9)[:, :3])
    assert len(random_pair(SMALL)[0].unique()) > 1000


def test_the_accelerators_table_is_not_measured_without_one(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["tracing.py", "--device", "cuda"])
    assert tracing.main() == CANNOT_MEASURE_HERE
    assert "no accelerator is at hand" in capsys.readouterr().err


def table_of(bench: Bench) -> dict:
    """Figures of a table with rows of a small layout under the names of the large one."""
    rows = []
    for read_out in ("first", "all"):
        for option, spread in (("exact", "scattered"), (BOTH, "scattered"), (BOTH, "dense")):
            row = bench.measure(Case(SMALL, read_out, option, 4, spread=spread)).as_dict()
            rows.append(row | {"layout": "large"})
    agreement = {"queries": 1000, "same_argmax": 999, "worst_of_allowed": 0.5}
    agreement["smallest_peak_nats"] = 0.1
    costs = [
        {"layout": name, "queries": n, "seconds": seconds}
        for name in ("nano", "large")
        for n, seconds in ((16, 2.0), (1, 4.0), (4, 1.5))
    ]
    memory = {"share_of_promise": 0.5, "peak_gb": 1.0, "promised_gb": 2.0, "max_tokens": 99}
    cpu = {"rows": rows, "agreement": {"nano": agreement, "large": agreement}, "costs": costs}
    worse = memory | {"share_of_promise": 1.2}
    return {"cpu": cpu, "memory": [memory, worse], "minutes": 9.0}


def test_the_table_carries_the_names_that_promises_read(bench):
    figures = table_of(bench)
    (exact,) = [
        r for r in figures["cpu"]["rows"] if (r["read_out"], r["option"]) == ("all", "exact")
    ]
    assert claims_engine.of_bound("all")(figures).value == exact["efficiency"]
    assert claims_engine.speed_up("dense")(figures).value > 0
    assert claims_engine.worst_rise("nano")(figures).value == pytest.approx(2.0 / 1.5)
    assert claims_engine.worst_memory(figures).value == 1.2
    assert claims_engine.same_argmax("nano", 1000)(figures).value == 0.999
    assert math.isnan(claims_engine.same_argmax("nano", 1001)(figures).value)
    with pytest.raises(NotMeasuredError):
        claims_engine.on_accelerator(figures)


@pytest.mark.parametrize(("of_many", "expected"), [(2.0, 4.0), (9.0, 6.0)])
def test_a_speed_up_is_the_smaller_of_its_own_slow_time_and_that_of_many(of_many, expected):
    savings = {"layout": "large", "option": BOTH, "spread": "dense", "bound": 7.0, "queries": 100}
    savings |= {"fast_seconds": [0.5], "ratio": 6.0}
    exact = {"layout": "large", "read_out": "first", "option": "exact", "spread": "scattered"}
    exact |= {"slow_seconds": [of_many] * 2, "compared": 32}
    rows = [exact, savings | {"read_out": "first"}, savings | {"read_out": "all"}]
    figure = claims_engine.speed_up("dense")({"cpu": {"rows": rows}})
    assert figure.value == expected
    assert "by the 32 of the exact row" in figure.note


def test_the_default_order_is_judged_against_the_best():
    assert claims_engine.default_order() == "after"
    epe = {"after": 2.0, "random": 1.5, "before": 3.0}
    orders = {name: {"epe_px": value} for name, value in epe.items()}
    orders["after"] |= {
        "minus_random": {"ci95_px": [0.1, 0.9]},
        "minus_before": {"ci95_px": [-1.5, -0.5]},
    }
    figure = claims_engine.surely_behind({"orders": orders})
    assert figure.value == 0.1 and "0.100 to 0.900" in figure.note
    orders["after"]["minus_random"]["ci95_px"] = [-0.1, 0.9]
    assert claims_engine.surely_behind({"orders": orders}).value == -0.1


def test_the_zoom_study_asks_once_and_its_rows_are_what_tracers_answer(monkeypatch):
    model = loud_model(patch_px=4, size=32)
    points = synthetic_pairs(SceneConfig(size=32, max_motion_px=3.0), 3, 11, 0.5)
    asked = []
    original = KLEngine.__call__

    def counting(self, frame0, *rest, **how):
        asked.append(len(frame0))
        return original(self, frame0, *rest, **how)

    monkeypatch.setattr(KLEngine, "__call__", counting)
    how = {"crop_masks": 2, "augmentations": 2, "keep_hidden_px": 0}
    found = measure_engine.zoom(model, points, range(2), 1, **how)
    whole, crops = [3] * 2, [32, 32, 1, 1]  # in two guises, 33 crops at most 32 at a time
    assert sorted(asked) == sorted((whole + crops * 2) * 2)  # two more scales, two seeds
    usual, hidden = TracerConfig(num_masks=1), {"num_masks": 2, "keep_hidden_px": None}
    rows = {f"{n}": (usual, ZoomConfig(scales=n, **hidden)) for n in (1, 2, 3)}
    rows["1, arg-max"] = replace(usual, peak="argmax"), ZoomConfig()
    for name, (cfg, crops) in rows.items():
        tracer = kl_tracer(model, cfg, zoom=crops, augmentations=2)
        errors = measure_engine.mean_errors(tracer, points, range(2))
        assert found["scales"][name]["epe_px"] == pytest.approx(errors.mean().item(), rel=1e-6)
    assert len({round(found["scales"][name]["epe_px"], 6) for name in rows}) == len(rows)


def test_the_worst_search_is_taken_with_one_mask_or_with_the_defaults():
    shares = {"after, 1 masks": 0.98, "after, 8 masks": 1.0, "clean, 8 masks": 0.995}
    figures = {"search": {name: {"same_argmax_share": v} for name, v in shares.items()}}
    assert claims_engine.worst_search(one_mask=True)(figures).value == 0.98
    assert claims_engine.worst_search(one_mask=False)(figures).value == 0.995


def test_promises_of_the_engine_are_told_apart_and_have_commands(capsys):
    whats = [claim.what for claim in claims_engine.CLAIMS]
    assert len(set(whats)) == len(whats)
    files = {claim.result for claim in claims_engine.CLAIMS if claim.result}
    assert files == set(claims_engine.COMMANDS)
    assert claims.main(["engine", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(whats)
