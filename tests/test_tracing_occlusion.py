"""The rules that tell hidden points, and their calibration against brute force."""

import math

import pytest
import torch

from tests.reference import slow_occlusion as slow
from tracing import occlusion
from tracing.occlusion import (
    CUES,
    Cuts,
    Evidence,
    best_cuts,
    best_return,
    best_threshold,
    came_back,
    check_occlusion,
    cross_fitted_visible,
    is_visible,
)


def accuracy_at(threshold, peak, visible):
    return (is_visible(peak, threshold) == visible).double().mean().item()


def random_evidence(seed, num_points=15):
    """Peaks and distances with ties, zeros and points that never came back; who is in view."""
    generator = torch.Generator().manual_seed(seed)
    peak = torch.randint(0, 8, (num_points,), generator=generator).double() / 4
    away = torch.randint(0, 6, (num_points,), generator=generator).double()
    away = torch.where(away == 5, torch.inf, away)
    chance = 0.1 + 0.2 * peak + 0.4 * (away < 2)
    visible = torch.rand(num_points, generator=generator) < chance
    return Evidence(peak_kl=peak, return_px=away), visible


# --- the rules ---------------------------------------------------------------------------------


def test_visible_means_the_peak_reaches_the_threshold():
    assert is_visible(torch.tensor([0.0, 0.1, 0.2]), 0.1).tolist() == [False, True, True]
    assert is_visible(torch.tensor([0.0]), 0.0).tolist() == [True]


def test_visible_means_it_came_back_to_within_the_threshold():
    away = torch.tensor([0.0, 2.0, 2.5, math.inf])
    assert came_back(away, 2.0).tolist() == [True, True, False, False]
    assert came_back(away, math.inf).tolist() == [True, True, True, False]


def test_both_cues_must_agree_and_one_alone_decides_alone():
    both = Evidence(
        peak_kl=torch.tensor([2.0, 2.0, 0.5, 0.5]), return_px=torch.tensor([1.0, 9.0, 1.0, 9.0])
    )
    assert Cuts(peak_kl=1.0, return_px=4.0).visible(both).tolist() == [True, False, False, False]
    assert Cuts(peak_kl=1.0).visible(both).tolist() == [True, True, False, False]
    assert Cuts(return_px=4.0).visible(both).tolist() == [True, False, True, False]


def test_evidence_knows_which_rules_it_suffices_for():
    peak = Evidence(peak_kl=torch.ones(3))
    assert [peak.suffices(rule) for rule in CUES] == [True, False, False]
    both = Evidence(peak_kl=torch.ones(3), return_px=torch.zeros(3))
    assert all(both.suffices(rule) for rule in CUES)
    assert both.of("forward_backward").cues == {"return_px"}
    with pytest.raises(ValueError, match=r"guess.*forward_backward"):
        check_occlusion("guess")


# --- one threshold -----------------------------------------------------------------------------


def test_separable_peaks_are_cut_half_way():
    peak = torch.tensor([0.9, 0.1, 0.5, 0.3])
    threshold, accuracy = best_threshold(peak, peak > 0.4)
    assert threshold == pytest.approx(0.4) and accuracy == 1.0


def test_separable_distances_are_cut_half_way():
    away = torch.tensor([1.0, 8.0, math.inf, 2.0])
    assert best_return(away, away < 5) == (5.0, 1.0)


@pytest.mark.parametrize("visible, rule", [(True, "all"), (False, "none")])
def test_one_sided_splits_call_everything_the_same(visible, rule):
    peak = torch.tensor([0.2, 0.2, 0.7])
    threshold, accuracy = best_threshold(peak, torch.full((3,), visible))
    assert accuracy == 1.0
    assert is_visible(peak.double(), threshold).tolist() == [visible] * 3
    assert (threshold == 0.0) == visible


@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_one_sided_splits_of_distances_call_everything_that_came_back_the_same(visible, least):
    away = torch.tensor([least, 3.0, 3.0])
    threshold, accuracy = best_return(away, torch.full((3,), visible))
    assert accuracy == 1.0 and (threshold == math.inf) == visible
    assert came_back(away.double(), threshold).tolist() == [visible] * 3


def test_points_that_never_came_back_are_occluded_by_any_threshold():
    away = torch.tensor([math.inf, math.inf])
    threshold, accuracy = best_return(away, torch.tensor([True, False]))
    assert accuracy == 0.5 and not came_back(away, threshold).any()
    cuts, accuracy = best_cuts(
        Evidence(peak_kl=torch.ones(2), return_px=away), torch.tensor([True, False])
    )
    assert (
        accuracy == 0.5 and not cuts.visible(Evidence(peak_kl=torch.ones(2), return_px=away)).any()
    )


@pytest.mark.parametrize("seed", range(20))
def test_calibration_finds_what_brute_force_finds(seed):
    evidence, visible = random_evidence(seed)
    peak = evidence.peak_kl
    threshold, accuracy = best_threshold(peak, visible)
    tried = [accuracy_at(t / 8, peak, visible) for t in range(18)]
    assert accuracy == pytest.approx(max(tried))
    assert accuracy_at(threshold, peak, visible) == pytest.approx(accuracy)


@pytest.mark.parametrize("peak", [torch.zeros(0), torch.tensor([0.1, float("nan")])])
def test_nothing_to_calibrate_on_is_refused(peak):
    visible = torch.ones(len(peak), dtype=torch.bool)
    with pytest.raises(ValueError, match="finite"):
        best_threshold(peak, visible)
    with pytest.raises(ValueError, match="needs distances"):
        best_return(peak, visible)


# --- any rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", CUES)
@pytest.mark.parametrize("seed", range(12))
def test_every_rule_is_calibrated_as_well_as_brute_force_can(rule, seed):
    evidence, visible = random_evidence(seed)
    cuts, accuracy = best_cuts(evidence.of(rule), visible)
    lists = evidence.peak_kl.tolist(), evidence.return_px.tolist(), visible.tolist()
    assert accuracy == pytest.approx(slow.best_accuracy(*lists, rule))
    said = cuts.visible(evidence)
    assert (said == visible).double().mean().item() == pytest.approx(accuracy)
    assert said.tolist() == slow.called(*lists[:2], cuts.peak_kl, cuts.return_px)
    assert {cue for cue, cut in vars(cuts).items() if cut is not None} == set(CUES[rule])


def test_ties_call_the_most_points_visible():
    evidence = Evidence(peak_kl=torch.tensor([1.0, 2.0]), return_px=torch.tensor([3.0, 4.0]))
    cuts, accuracy = best_cuts(evidence, torch.tensor([True, False]))
    assert accuracy == 1.0 and cuts.peak_kl == 0.0 and cuts.return_px == 3.5
    none, accuracy = best_cuts(evidence, torch.tensor([False, True]))
    assert accuracy == 1.0 and none == Cuts(peak_kl=1.5, return_px=math.inf)


def test_two_cues_on_a_coarse_grid_are_no_worse_than_each_alone(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    peak, away = torch.rand(2, 60, generator=generator, dtype=torch.float64)
    visible = (peak - away + 0.3 * torch.randn(60, generator=generator)) > -0.3
    evidence = Evidence(peak_kl=peak, return_px=away)
    _, exact = best_cuts(evidence, visible)
    lists = peak.tolist(), away.tolist(), visible.tolist()
    assert exact == pytest.approx(slow.best_accuracy(*lists, "both"))
    monkeypatch.setattr(occlusion, "GRID", 5)
    cuts, coarse = best_cuts(evidence, visible)
    alone = [best_cuts(evidence.of(rule), visible)[1] for rule in ("peak_kl", "forward_backward")]
    assert max(alone) <= coarse <= exact
    assert (cuts.visible(evidence) == visible).double().mean().item() == pytest.approx(coarse)


# --- halves ------------------------------------------------------------------------------------


def test_each_half_is_judged_by_the_threshold_of_the_other():
    peak = torch.tensor([0.1, 0.4, 0.5, 1.0, 3.0, 4.0])
    visible = torch.tensor([False, True, True, False, True, True])
    fold = torch.arange(6) >= 3
    called, (outside, inside) = cross_fitted_visible(Evidence(peak_kl=peak), visible, fold)
    assert (outside.peak_kl, inside.peak_kl) == pytest.approx((2.0, 0.25))
    assert called.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("rule", CUES)
@pytest.mark.parametrize("seed", range(5))
def test_no_point_has_a_say_in_its_own_threshold(seed, rule):
    generator = torch.Generator().manual_seed(seed)
    evidence, visible = random_evidence(seed, 14)
    evidence = evidence.of(rule)
    fold = torch.rand(14, generator=generator) < 0.5
    called, cuts = cross_fitted_visible(evidence, visible, fold)
    assert cuts[0] == best_cuts(evidence.at(fold), visible[fold])[0]
    assert torch.equal(called[~fold], cuts[0].visible(evidence)[~fold])
    flipped = torch.where(fold, ~visible, visible)  # other truth inside the fold alone
    again, _ = cross_fitted_visible(evidence, flipped, fold)
    assert torch.equal(called[fold], again[fold])


@pytest.mark.parametrize("inside", [False, True])
def test_a_half_without_points_is_refused(inside):
    with pytest.raises(ValueError, match="both halves"):
        cross_fitted_visible(
            Evidence(peak_kl=torch.ones(3)), torch.ones(3).bool(), torch.full((3,), inside)
        )
