"""IsoFLOP: at one FLOP budget, the size with the least loss (or EPE); then that size by budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int

from studies.laws import Estimate, Refused, estimate, num_points, residual_draws

FEWEST_SIZES = 4  # of a parabola, which has three parameters
FEWEST_BUDGETS = 3  # of a straight line in logarithms, which has two
MOST_WITHOUT = 0.05  # of resamples that have no minimum among them
FARTHEST = 10.0  # decades from the sizes that were run: a minimum beyond is told as there


@dataclass(frozen=True)
class Optimum:
    """The lowest point of a parabola in log10 parameters."""

    parameters: Estimate
    lowest: float  # in the unit of y
    sizes: int
    runs: int
    _fit: np.ndarray = field(repr=False, compare=False)
    _draws: np.ndarray = field(repr=False, compare=False)  # of log10 parameters, NaN: no minimum

    def at(self, parameters: Float64[np.ndarray, " places"]) -> Float64[np.ndarray, " places"]:
        return np.polyval(self._fit, np.log10(parameters))


@dataclass(frozen=True)
class Trend:
    """Best size = scale x budget^exponent, over budgets."""

    exponent: Estimate
    budgets: int


def optimum(
    parameters: Float64[np.ndarray, " runs"],
    y: Float64[np.ndarray, " runs"],
    cells: Int[np.ndarray, " runs"],
    seed: int,
    num_draws: int = 500,
) -> Optimum | Refused:
    """The minimum of the parabola through the runs of one budget, where there is one.

    The interval draws residuals of whole cells, as ``laws.fit_law``.
    """
    if (sizes := num_points(parameters[:, None])) < FEWEST_SIZES:
        return Refused(
            f"{sizes} size{'s' * (sizes != 1)}; a parabola takes at least {FEWEST_SIZES}"
        )
    at = np.log10(parameters)
    middle = at.mean()
    fit = np.polyfit(at - middle, y, 2)
    if fit[0] <= 0:
        return Refused("the parabola opens downwards: no minimum among these sizes")
    lowest_at = middle - fit[1] / (2 * fit[0])
    if not at.min() <= lowest_at <= at.max():
        side = "smaller" if lowest_at < at.min() else "larger"
        return Refused(f"the minimum lies outside the sizes that were run; run {side} ones")
    smooth = np.polyval(fit, at - middle)
    drawn = smooth + residual_draws(y - smooth, cells, 3, seed, num_draws)
    fits = np.polyfit(at - middle, drawn.T, 2)
    without = fits[0] <= 0
    if without.mean() > MOST_WITHOUT:
        return Refused(
            f"{without.mean():.0%} of the resamples have no minimum: the curvature cannot be told "
            "from none"
        )
    draws = np.where(without, np.nan, middle - fits[1] / (2 * np.where(without, 1.0, fits[0])))
    draws = np.clip(draws, at.min() - FARTHEST, at.max() + FARTHEST)  # or 10 ** draws overflows
    moved = np.array([fit[0], fit[1] - 2 * fit[0] * middle, np.polyval(fit, -middle)])
    return Optimum(
        parameters=estimate(10**lowest_at, 10 ** draws[~without]),
        lowest=float(np.polyval(fit, lowest_at - middle)),
        sizes=sizes,
        runs=len(y),
        _fit=moved,
        _draws=draws,
    )


def trend(flops: Sequence[float], optima: Sequence[Optimum]) -> Trend | Refused:
    """How the best size grows with the budget: a straight line in logarithms."""
    if len(optima) < FEWEST_BUDGETS:
        return Refused(
            f"{len(optima)} budget{'s' * (len(optima) != 1)} with a minimum; a trend takes at "
            f"least {FEWEST_BUDGETS}"
        )
    at = np.log10(np.array(flops, dtype=float))
    exponent = np.polyfit(at, np.log10([each.parameters.value for each in optima]), 1)[0]
    draws = np.stack([each._draws for each in optima])
    draws = draws[:, ~np.isnan(draws).any(0)]
    return Trend(estimate(exponent, np.polyfit(at, draws, 1)[0]), len(optima))
