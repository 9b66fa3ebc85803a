"""How the promises of fast training are judged: too few pairs, missing runs, absent devices."""

import math

import pytest
import torch

from benchmarks import claims_speed, measure_optimizers
from benchmarks.bare_loop import beside_bare
from benchmarks.claim import NotMeasuredError, judge
from benchmarks.training import median_interval


def stage(ratio: float, pairs: int = 24) -> dict:
    return {"ratio": ratio, "ratio_ci95": [ratio - 0.01, ratio + 0.01], "pairs": pairs}


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


def test_what_needs_an_accelerator_is_told_as_not_measured():
    told = [judge(claim) for claim in claims_speed.CLAIMS if "H200" in claim.what]
    assert len(told) == 5 and {verdict.word for verdict in told} == {"NOT MEASURED"}


def test_a_median_lies_in_its_interval():
    low, high = median_interval(torch.tensor([1.0, 1.1, 0.9, 1.05, 2.0]))
    assert 0.89 < low <= 1.06 and 1.04 < high <= 2.0


def test_steps_of_both_loops_are_timed_in_pairs(tmp_path):
    ours, bare = beside_bare(16, 2, 1.0, 4, str(tmp_path))
    assert len(ours) == len(bare) == 4 and min(ours + bare) > 0


def test_a_run_is_told_by_its_share_of_zero_motion():
    point = {"flow/held_out/epe": 1.0, "flow/held_out/zero_epe": 4.0}
    assert measure_optimizers.share(point) == 0.25
