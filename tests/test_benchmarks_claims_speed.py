"""How the promises of fast training are judged: too few pairs, missing runs, absent devices."""

import math

import pytest
import torch

from benchmarks import claims_speed, measure_optimizers
from benchmarks.bare_loop import beside_bare, median_interval
from benchmarks.claim import NotMeasuredError
from benchmarks.shipped import configured, noise_batch
from benchmarks.timed_steps import with_scenes
from data.synthetic import SceneSampler
from doors.checkpoints import StepCheckpoint
from doors.meters import Meters
from doors.preemption import Preemption
from lras.pictures import PredictionPictures
from tracing.probe import FlowProbe


def stage(ratio: float, pairs: int = 24) -> dict:
    speeds = {"tokens_per_s": 30e3, "tokens_per_s_with_scenes": 27e3}
    return {"ratio": ratio, "ratio_ci95": [ratio - 0.01, ratio + 0.01], "pairs": pairs} | speeds


def test_the_worst_stage_counts_and_fewer_than_twenty_pairs_prove_nothing():
    worst = claims_speed.worst_step({"steps": {"a": stage(1.01), "b": stage(1.04)}})
    assert worst.value == 1.04 and "b 1.040 [1.030, 1.050]" in worst.note
    assert math.isnan(claims_speed.worst_step({"steps": {"a": stage(1.01, pairs=19)}}).value)


def runs(**steps: list[int | None]) -> dict:
    return {
        "runs": {
            f"{name}-seed{seed}": {"optimizer": name, "seed": seed, "steps_to_emergence": each}
            for name, own in steps.items()
            for seed, each in enumerate(own)
        }
    }


def test_muon_must_beat_the_better_rate_of_every_seed():
    figures = runs(muon=[300, 600, 400], low=[None, 650, 350], high=[500, None, None])
    assert claims_speed.seeds_won(figures).value == 2
    with pytest.raises(NotMeasuredError, match="8 of 9 runs"):
        claims_speed.seeds_won(runs(muon=[1, 1, 1], low=[2, 2, 2], high=[2, 2]))


def test_speed_is_judged_with_scenes_drawn_and_the_fixed_batch_stands_beside_it():
    found = claims_speed.of_recipe("20 px")({"steps": {"20 px": stage(1.0)}})
    assert found.value == 1.5 and "27,000" in found.note and "30,000 on one fixed" in found.note


def test_a_plan_too_high_is_as_wrong_as_one_too_low():
    errors = {"a": {"error": 0.03}, "b": {"error": -0.12}}
    found = claims_speed.worst_plan({"memory": errors})
    assert found.value == 0.12 and "b -12.0%" in found.note


def test_a_file_from_before_these_figures_is_not_measured():
    old = {"ratio": 1.0, "ratio_ci95": [1, 1], "pairs": 24, "tokens_per_s": 9e9}
    figures = {"steps": {"20 px": old}, "plans": {"nano": {"error": 0.0}}}
    for read in (claims_speed.worst_plan, claims_speed.of_recipe("20 px"), claims_speed.worst_step):
        with pytest.raises(
            NotMeasuredError, match="older than this figure; type python benchmarks"
        ):
            read(figures)


def test_a_median_lies_in_its_interval():
    low, high = median_interval(torch.tensor([1.0, 1.1, 0.9, 1.05, 2.0]))
    assert 0.89 < low <= 1.06 and 1.04 < high <= 2.0


@pytest.mark.slow
def test_steps_of_both_loops_are_timed_in_pairs_with_all_hooks_of_a_training(tmp_path, monkeypatch):
    called = []
    for kind in (FlowProbe, PredictionPictures, StepCheckpoint, Preemption, Meters):
        hook = lambda self, *_, kind=kind: called.append(kind)  # noqa: E731
        monkeypatch.setattr(kind, "on_train_batch_end", hook)
    cfg = configured(tmp_path, "experiment=smoke")
    ours, bare = beside_bare(cfg, noise_batch(2, 16, 1.0), 4, tmp_path)
    assert len(ours) == len(bare) == 4 and min(ours + bare) > 0
    assert len(set(called)) == 5 and {called.count(kind) for kind in called} == {8}


def test_nothing_that_comes_now_and_then_falls_among_timed_steps(tmp_path):
    cfg = configured(tmp_path, "experiment=lras_nano").callbacks
    rarely = cfg.probe.every_n_steps, cfg.pictures.every_n_steps
    assert min(*rarely, cfg.checkpoint.every_n_train_steps) > 1000


def test_a_span_counts_its_steps_on_scenes_that_the_training_draws(tmp_path, monkeypatch):
    drawn, sample = [], SceneSampler.sample
    monkeypatch.setattr(SceneSampler, "sample", lambda *a: drawn.append(a[1]) or sample(*a))
    cfg = configured(
        tmp_path, "experiment=smoke", "callbacks.probe=null", "callbacks.pictures=null"
    )
    span = with_scenes(cfg, tmp_path, warm_up=2, steps=3)
    assert span.tokens == 3 * 8 * (9 + 9 * 2) and span.seconds > 0
    assert drawn == [8] * len(drawn) and len(drawn) >= 5


def test_a_run_is_told_by_its_share_of_zero_motion():
    point = {"flow/held_out/epe": 1.0, "flow/held_out/zero_epe": 4.0}
    assert measure_optimizers.share(point) == 0.25
