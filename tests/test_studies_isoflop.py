"""The best size of a FLOP budget comes back, and is refused where there is none."""

import numpy as np
import pytest

from studies.isoflop import Optimum, optimum, trend
from studies.laws import Refused

SIZES = 6e4 * 3.0 ** np.arange(5)


def bowl(
    best: float, noise: float = 0.0, seeds: int = 3, sizes=SIZES, bend: float = 0.2, trial: int = 0
):
    """y = 2 + bend (log10 N - log10 best)^2: parameters, y and cells."""
    parameters = np.repeat(sizes, seeds)
    noisy = noise * np.random.default_rng(trial).standard_normal(len(parameters))
    y = 2 + bend * np.log10(parameters / best) ** 2 + noisy
    return parameters, y, np.repeat(np.arange(len(sizes)), seeds)


def test_a_known_optimum_comes_back_and_its_interval_holds_it_as_often_as_promised():
    held = 0
    for trial in range(20):
        found = optimum(*bowl(5e5, noise=0.003, trial=trial), seed=0)
        assert found.parameters.value == pytest.approx(5e5, rel=0.05)
        held += found.parameters.low < 5e5 < found.parameters.high
    assert held >= 16  # 19 are promised; fewer than 16 would happen by chance once in 400 times
    assert found.lowest == pytest.approx(2, abs=0.01)
    assert found.at(np.array([5e6]))[0] == pytest.approx(2.2, abs=0.02)
    assert (found.sizes, found.runs) == (5, 15)


def test_a_resample_that_is_all_but_flat_has_a_minimum_far_away_and_no_overflow(monkeypatch):
    parameters, y, cells = bowl(5e5)
    at = np.log10(parameters) - np.log10(parameters).mean()
    drawn = np.zeros((40, len(y)))
    drawn[0] = -(0.2 - 1e-9) * at**2  # leaves next to nothing of the bend
    monkeypatch.setattr("studies.isoflop.residual_draws", lambda *_: drawn)
    with np.errstate(all="raise"):
        found = optimum(parameters, y, cells, seed=0)
    assert found.parameters.value == pytest.approx(5e5) and np.isfinite(found.parameters.high)


def test_without_noise_the_optimum_is_exact():
    found = optimum(*bowl(3e5), seed=0)
    assert found.parameters.value == pytest.approx(3e5, rel=1e-9)


@pytest.mark.parametrize(
    "runs, reason",
    [
        (bowl(5e5, sizes=SIZES[:3]), "3 sizes; a parabola takes at least 4"),
        (bowl(5e5, bend=-0.2), "opens downwards"),
        (bowl(1e9), "outside the sizes that were run; run larger ones"),
        (bowl(1e3), "outside the sizes that were run; run smaller ones"),
        (bowl(5e5, noise=0.1, bend=0.15), "of the resamples have no minimum"),
    ],
)
def test_no_minimum_is_refused_with_the_reason(runs, reason):
    found = optimum(*runs, seed=0)
    assert isinstance(found, Refused) and reason in found.reason


def test_the_growth_of_the_best_size_with_the_budget_comes_back():
    budgets = [1e12, 3e12, 1e13, 3e13]
    optima = [optimum(*bowl(2e5 * (c / 1e12) ** 0.45, noise=0.002), seed=0) for c in budgets]
    assert all(isinstance(each, Optimum) for each in optima)
    found = trend(budgets, optima)
    assert found.exponent.value == pytest.approx(0.45, rel=0.05)
    assert found.exponent.low < 0.45 < found.exponent.high and found.budgets == 4


def test_two_budgets_are_no_trend():
    each = optimum(*bowl(3e5), seed=0)
    assert "2 budgets with a minimum" in trend([1e12, 1e13], [each, each]).reason


def test_the_optimum_of_a_law_of_both_axes_is_near_its_true_one():
    """At 6 N D = C, L = E + A N^-a + B D^-b is least where a A N^-a = b B D^-b; no parabola."""
    flops, power_n, power_d, of_n, of_d = 1e13, 0.35, 0.45, 40.0, 900.0
    grid = np.geomspace(1e4, 1e8, 100_001)

    def loss(blocks):
        return 0.8 + of_n * blocks**-power_n + of_d * (flops / 6 / blocks) ** -power_d

    best = grid[loss(grid).argmin()]
    sizes = np.repeat(best * 2.0 ** np.arange(-3, 4), 2)
    found = optimum(sizes, loss(sizes), np.repeat(np.arange(7), 2), seed=0)
    assert found.parameters.value == pytest.approx(best, rel=0.1)
