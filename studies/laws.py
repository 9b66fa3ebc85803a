"""Power laws with a floor, y = floor + sum over axes of a x^-b, with bootstrap intervals.

One axis (parameters, tokens or FLOPs) or two at once: L(N, D) = E + A N^-alpha + B D^-beta.
"""

from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float64, Int

LEVEL = 0.95
NO_FLOOR = 1e-4  # of the smallest y: a floor below is none
SAME_X = 1.01  # x closer than this factor are one point of a law
_ITERATIONS, _SETTLED = 150, 1e-9  # of a search; of the loss, from one step to the next
_FEW_ITERATIONS, _NEARLY = 40, 1e-6  # of the search for a resample
_STEEPEST = 6.0  # |exponent| searched
_FLOORS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99)  # of the smallest y: where searches begin
_EXPONENTS = ((0.1, 0.1), (0.3, 0.3), (0.7, 0.7), (0.1, 0.7), (0.7, 0.1))  # of a joint law
_FEW_FLOORS, _FEW_EXPONENTS = (0.0, 0.9), ((0.3, 0.3),)  # for a resample, beside the fit itself


@dataclass(frozen=True)
class Estimate:
    """A fitted number and its bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Refused:
    """Why there is no fit."""

    reason: str


@dataclass(frozen=True)
class Law:
    """A fitted law: ``floor`` in the unit of y, an exponent and a scale for each axis."""

    floor: Estimate
    scales: tuple[Estimate, ...]
    exponents: tuple[Estimate, ...]
    points: int  # distinct places on the axes
    runs: int
    miss: float  # median of |y / fitted - 1|
    huber_delta: float  # of log y: where squares turn into straight lines
    _center: np.ndarray = field(repr=False, compare=False)
    _fit: np.ndarray = field(repr=False, compare=False)
    _draws: np.ndarray = field(repr=False, compare=False)

    @property
    def has_trend(self) -> bool:
        """Whether every exponent can be told from 0."""
        return all(exponent.excludes_zero for exponent in self.exponents)

    def at(self, x: Float64[np.ndarray, "places axes"]) -> Float64[np.ndarray, " places"]:
        return np.exp(_log_law(self._fit[None], np.log(x) - self._center)[0])

    def band(
        self, x: Float64[np.ndarray, "places axes"]
    ) -> tuple[Float64[np.ndarray, " places"], Float64[np.ndarray, " places"]]:
        """Lower and upper bound of the law at each place, from the resamples."""
        drawn = np.exp(_log_law(self._draws, np.log(x) - self._center))
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high


def fit_law(
    x: Float64[np.ndarray, "runs axes"],
    y: Float64[np.ndarray, " runs"],
    cells: Int[np.ndarray, " runs"],
    seed: int,
    num_draws: int = 500,
) -> Law | Refused:
    """The law that fits log y best under a Huber loss, and its 95 % intervals.

    ``cells`` names what a run repeats: runs that differ by their seed alone share one. The
    bootstrap draws residuals of whole cells (``residual_draws``), because the sizes of a study are
    chosen, not drawn: a resample without some of them would say nothing about the law. y must be
    positive.
    """
    num_params = 1 + 2 * x.shape[1]
    if (refused := _too_few(x, num_params)) is not None:
        return refused
    center = np.log(x).mean(0)
    log_x, log_y = np.log(x) - center, np.log(y)
    starts = _starts(log_x, log_y[None], _FLOORS, _EXPONENTS)[0]
    squares = _best(log_x, log_y[None], starts[None], np.inf)[0]  # ordinary least squares first
    residuals = log_y - _log_law(squares[None], log_x)[0]
    delta = max(1.345 * 1.4826 * float(np.median(np.abs(residuals))), 1e-9)  # Huber's usual tuning
    fitted = _best(log_x, log_y[None], np.concatenate([starts, squares[None]])[None], delta)[0]
    log_fit = _log_law(fitted[None], log_x)[0]

    drawn_y = log_fit + residual_draws(log_y - log_fit, cells, num_params, seed, num_draws)
    again = np.broadcast_to(fitted, (num_draws, 1, num_params))
    begin = np.concatenate([again, _starts(log_x, drawn_y, _FEW_FLOORS, _FEW_EXPONENTS)], axis=1)
    draws = _best(log_x, drawn_y, begin, delta, _FEW_ITERATIONS, _NEARLY)

    axes = x.shape[1]
    scales = [_scale(fitted, draws, center, axis, axes) for axis in range(axes)]
    powers = range(1 + axes, 1 + 2 * axes)
    return Law(
        floor=estimate(*(_or_zero(np.exp(f), y.min()) for f in (fitted[0], draws[:, 0]))),
        scales=tuple(scales),
        exponents=tuple(estimate(fitted[p], draws[:, p]) for p in powers),
        points=num_points(x),
        runs=len(y),
        miss=float(np.median(np.abs(np.exp(log_y - log_fit) - 1))),
        huber_delta=delta,
        _center=center,
        _fit=fitted,
        _draws=draws,
    )


def estimate(value: SupportsFloat, draws: Float64[np.ndarray, " draws"]) -> Estimate:
    """A value with the percentile interval of its resamples, widened to hold the value itself."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))


def num_points(x: Float64[np.ndarray, "runs axes"]) -> int:
    """Distinct places, taking x within ``SAME_X`` of one another as one."""
    return len(np.unique(np.stack([_labels(column) for column in x.T], axis=1), axis=0))


def residual_draws(
    residuals: Float64[np.ndarray, " runs"],
    cells: Int[np.ndarray, " runs"],
    num_params: int,
    seed: int,
    num_draws: int,
) -> Float64[np.ndarray, "draws runs"]:
    """Residuals that might have been: each cell gets those of a cell drawn at random, all together.

    With a random sign, and stretched for what the fit has already swallowed: the mean of a cell by
    sqrt(C / (C - p)) of C cells and p parameters, but at least to what its seeds explain; what
    seeds add to it by sqrt(n / (n - C)) of n runs. How large residuals are is itself known from
    n - p values only, so each draw is divided by a root of chi-square / (n - p), as Student's t is.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(cells == cell) for cell in np.unique(cells)]
    means = np.array([residuals[runs].mean() for runs in members])
    num_cells, num_runs = len(members), len(residuals)
    longest = max(map(len, members))
    # a donor with fewer seeds than the cell that it stands in for gives some of them twice
    own = np.stack(
        [np.resize(residuals[runs] - residuals[runs].mean(), longest) for runs in members]
    )
    own *= np.sqrt(num_runs / max(1, num_runs - num_cells))
    size = np.sqrt((means**2).sum() / max(1, num_cells - num_params))
    by_seeds = np.sqrt((own**2).mean() * num_cells / num_runs)
    if (rms := np.sqrt((means**2).mean())) > 0:
        means = means * max(size, by_seeds) / rms

    donors = generator.integers(num_cells, size=(num_draws, num_cells))
    signs = generator.choice([-1.0, 1.0], size=(num_draws, num_cells))
    freedom = max(1, num_runs - num_params)
    wide = np.sqrt(freedom / generator.chisquare(freedom, size=num_draws))[:, None]
    drawn = np.empty((num_draws, num_runs))
    for cell, runs in enumerate(members):
        donor, sign = donors[:, cell], signs[:, cell, None]
        drawn[:, runs] = wide * sign * (means[donor][:, None] + own[donor][:, : len(runs)])
    return drawn


def _too_few(x: np.ndarray, num_params: int) -> Refused | None:
    points = num_points(x)
    if points <= num_params:
        return Refused(
            f"{points} distinct point{'s' * (points != 1)} for a law of {num_params} parameters; "
            f"it takes at least {num_params + 1}"
        )
    along = [len(np.unique(_labels(column))) for column in x.T]
    if min(along) < 3:  # the floor and this axis could not be told apart
        return Refused(f"{min(along)} distinct values on one axis; a law of both takes at least 3")
    return None


def _labels(values: np.ndarray) -> np.ndarray:
    """A number for each value: one for all that follow one another within ``SAME_X``."""
    order = np.argsort(values, kind="stable")
    jumps = np.diff(np.log(values[order])) > np.log(SAME_X)
    labels = np.empty(len(values), dtype=int)
    labels[order] = np.concatenate([[0], np.cumsum(jumps)])
    return labels


def _or_zero(floor: np.ndarray | np.floating, lowest: float) -> np.ndarray:
    """The search knows floors by their logarithm only, so that none is a very low one."""
    return np.where(floor < NO_FLOOR * lowest, 0.0, floor)


def _scale(
    fitted: np.ndarray, draws: np.ndarray, center: np.ndarray, axis: int, axes: int
) -> Estimate:
    """a of a x^-b; inside the fit x is measured from its geometric mean."""

    def of(params: np.ndarray) -> np.ndarray | np.floating:
        return np.exp(params[..., 1 + axis] + params[..., 1 + axes + axis] * center[axis])

    return estimate(of(fitted), of(draws))


def _log_law(params: np.ndarray, log_x: np.ndarray) -> np.ndarray:
    """Logarithm of the law for each set of parameters at each place: (sets, places)."""
    return _log_law_and_shares(params, log_x)[0]


def _log_law_and_shares(
    params: np.ndarray, log_x: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same, and what share of the law the floor and each power are: (sets, places) each."""
    axes = log_x.shape[1]
    terms = [np.broadcast_to(params[:, :1], (len(params), len(log_x)))]
    for axis in range(axes):
        exponent = params[:, 1 + axes + axis, None]
        terms.append(params[:, 1 + axis, None] - exponent * log_x[:, axis])
    largest = np.maximum.reduce(terms)
    shares = [np.exp(term - largest) for term in terms]
    total = sum(shares)
    for share in shares:
        share /= total
    return largest + np.log(total), shares


def _starts(
    log_x: np.ndarray,
    log_y: np.ndarray,
    floors: tuple[float, ...],
    exponents: tuple[tuple[float, float], ...],
) -> np.ndarray:
    """Where searches begin: (sets, starts, parameters).

    One axis: for a floor that is held, log(y - floor) is a straight line, solved in closed form.
    Two axes: what is above the floor is shared out evenly, with several exponents.
    """
    lowest = np.exp(log_y.min(1, keepdims=True))
    starts = []
    for share in floors:
        floor = np.maximum(share * lowest, 1e-6 * lowest)
        above = np.log(np.exp(log_y) - np.minimum(floor, 0.999 * lowest))
        if log_x.shape[1] == 1:
            line = log_x[:, 0]  # of mean 0
            slope = (above * line).sum(1, keepdims=True) / (line**2).sum()
            starts.append(np.concatenate([np.log(floor), above.mean(1, keepdims=True), -slope], 1))
            continue
        half = above.mean(1, keepdims=True) - np.log(2)
        for powers in exponents:
            own = np.broadcast_to(powers, (len(log_y), 2))
            starts.append(np.concatenate([np.log(floor), half, half, own], 1))
    return np.stack(starts, axis=1)


def _best(
    log_x: np.ndarray,
    log_y: np.ndarray,
    starts: np.ndarray,
    delta: float,
    iterations: int = _ITERATIONS,
    settled: float = _SETTLED,
) -> np.ndarray:
    """The best end of the searches from ``starts`` (sets, starts, parameters), by set of y."""
    sets, tries, num_params = starts.shape
    begin = starts.reshape(-1, num_params)
    repeated = np.repeat(log_y, tries, axis=0)
    ends, losses = _search(log_x, repeated, begin, delta, iterations, settled)
    best = losses.reshape(sets, tries).argmin(1)
    return ends.reshape(starts.shape)[np.arange(sets), best]


def _search(
    log_x: np.ndarray,
    log_y: np.ndarray,
    params: np.ndarray,
    delta: float,
    iterations: int,
    settled: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt with Huber weights, all sets at once; those that are done leave."""
    axes = log_x.shape[1]
    lower, upper = np.full(params.shape, -np.inf), np.full(params.shape, np.inf)
    lower[:, 0], upper[:, 0] = log_y.min(1) - 14, log_y.max(1)  # below: as good as no floor
    lower[:, 1 + axes :], upper[:, 1 + axes :] = -_STEEPEST, _STEEPEST
    params = np.clip(params, lower, upper)
    fitted, shares = _log_law_and_shares(params, log_x)
    residuals = log_y - fitted
    losses, damping = huber(residuals, delta).sum(1), np.full(len(params), 1e-3)
    going = np.arange(len(params))
    for _ in range(iterations):
        here, rest = params[going], residuals[going]
        powers = [share[going] for share in shares]
        bends = [-power * log_x[:, axis] for axis, power in enumerate(powers[1:])]
        slope = np.stack([*powers, *bends], axis=1)  # by each parameter: (sets, params, places)
        weights = np.minimum(1.0, delta / np.maximum(np.abs(rest), 1e-300))
        weighted = slope * weights[:, None]
        curvature = weighted @ np.swapaxes(slope, 1, 2)
        descent = (weighted @ rest[..., None])[..., 0]
        diagonal = np.arange(curvature.shape[1])
        steep = curvature[:, diagonal, diagonal]
        curvature[:, diagonal, diagonal] = steep * (1 + damping[going, None]) + 1e-12
        step = np.linalg.solve(curvature, descent[..., None])[..., 0]
        there = np.clip(here + step, lower[going], upper[going])
        fitted, shares_there = _log_law_and_shares(there, log_x)
        rest_there = log_y[going] - fitted
        loss_there = huber(rest_there, delta).sum(1)
        better = loss_there < losses[going]
        gain = losses[going] - loss_there
        moved = going[better]
        params[moved], residuals[moved] = there[better], rest_there[better]
        for share, new in zip(shares, shares_there, strict=True):
            share[moved] = new[better]
        damping[going] = np.clip(damping[going] * np.where(better, 0.3, 5.0), 1e-12, 1e12)
        small = better & (gain <= settled * losses[going])
        losses[moved] = loss_there[better]
        going = going[~small & (damping[going] < 1e10)]
        if not len(going):
            break
    return params, losses


def huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    """Half the square up to ``delta``, a straight line beyond."""
    size = np.abs(residuals)
    if np.isinf(delta):
        return 0.5 * size**2
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
