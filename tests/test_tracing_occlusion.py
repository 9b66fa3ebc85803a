"""The threshold rule, and its calibration against brute force."""

import pytest
import torch

from tracing.occlusion import best_threshold, cross_fitted_visible, is_visible


def accuracy_at(threshold, peak, visible):
    return (is_visible(peak, threshold) == visible).double().mean().item()


def test_visible_means_the_peak_reaches_the_threshold():
    assert is_visible(torch.tensor([0.0, 0.1, 0.2]), 0.1).tolist() == [False, True, True]
    assert is_visible(torch.tensor([0.0]), 0.0).tolist() == [True]


def test_separable_peaks_are_cut_half_way():
    peak = torch.tensor([0.9, 0.1, 0.5, 0.3])
    threshold, accuracy = best_threshold(peak, peak > 0.4)
    assert threshold == pytest.approx(0.4) and accuracy == 1.0


@pytest.mark.parametrize("visible, rule", [(True, "all"), (False, "none")])
def test_one_sided_splits_call_everything_the_same(visible, rule):
    peak = torch.tensor([0.2, 0.2, 0.7])
    threshold, accuracy = best_threshold(peak, torch.full((3,), visible))
    assert accuracy == 1.0
    assert is_visible(peak.double(), threshold).tolist() == [visible] * 3
    assert (threshold == 0.0) == visible


@pytest.mark.parametrize("seed", range(20))
def test_calibration_finds_what_brute_force_finds(seed):
    generator = torch.Generator().manual_seed(seed)
    peak = torch.randint(0, 8, (15,), generator=generator).double() / 4  # with ties and zeros
    visible = torch.rand(15, generator=generator) < 0.2 + 0.3 * peak
    threshold, accuracy = best_threshold(peak, visible)
    tried = [accuracy_at(t / 8, peak, visible) for t in range(18)]
    assert accuracy == pytest.approx(max(tried))
    assert accuracy_at(threshold, peak, visible) == pytest.approx(accuracy)


@pytest.mark.parametrize("peak", [torch.zeros(0), torch.tensor([0.1, float("nan")])])
def test_nothing_to_calibrate_on_is_refused(peak):
    with pytest.raises(ValueError, match="finite"):
        best_threshold(peak, torch.ones(len(peak), dtype=torch.bool))


def test_each_half_is_judged_by_the_threshold_of_the_other():
    peak = torch.tensor([0.1, 0.4, 0.5, 1.0, 3.0, 4.0])
    visible = torch.tensor([False, True, True, False, True, True])
    fold = torch.arange(6) >= 3
    called, (outside, inside) = cross_fitted_visible(peak, visible, fold)
    assert (outside, inside) == pytest.approx((2.0, 0.25))
    assert called.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("seed", range(10))
def test_no_point_has_a_say_in_its_own_threshold(seed):
    generator = torch.Generator().manual_seed(seed)
    peak = torch.rand(14, generator=generator)
    visible = torch.rand(14, generator=generator) < 0.5
    fold = torch.rand(14, generator=generator) < 0.5
    called, thresholds = cross_fitted_visible(peak, visible, fold)
    assert thresholds[0] == best_threshold(peak[fold], visible[fold])[0]
    flipped = torch.where(fold, ~visible, visible)  # other truth inside the fold alone
    again, _ = cross_fitted_visible(peak, flipped, fold)
    assert torch.equal(called[fold], again[fold])


@pytest.mark.parametrize("inside", [False, True])
def test_a_half_without_points_is_refused(inside):
    with pytest.raises(ValueError, match="both halves"):
        cross_fitted_visible(torch.ones(3), torch.ones(3).bool(), torch.full((3,), inside))
