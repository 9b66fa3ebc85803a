"""Spearman's rank correlation over the cells of a study, with interval and permutation p."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from studies.laws import Estimate, Refused, estimate

FEWEST = 4  # distinct x; with 3 a perfect order comes about by chance every third time
_DRAWS, _PERMUTATIONS = 1000, 2000


@dataclass(frozen=True)
class RankCorrelation:
    """rho with its interval, and how often sizes in random order do as well."""

    rho: Estimate
    p: float
    points: int
    runs: int

    @property
    def is_told(self) -> bool:
        """Whether it can be told from none: by the interval and by the permutations."""
        return self.rho.excludes_zero and self.p < 0.05


def rank_correlation(
    x: Float64[np.ndarray, " runs"],
    y: Float64[np.ndarray, " runs"],
    cells: Int[np.ndarray, " runs"],
    seeds: Int[np.ndarray, " runs"],
    seed: int,
) -> RankCorrelation | Refused:
    """How far y rises with x, -1 to 1.

    The interval draws cells with replacement, seeds of a cell together. With few cells in a perfect
    order every draw is perfect too, which an interval cannot show; so ``p``, two-sided, deals x out
    anew among the runs of each training seed.
    """
    if (points := len(np.unique(x))) < FEWEST:
        return Refused(f"{points} distinct sizes; a rank correlation takes at least {FEWEST}")
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(cells == cell) for cell in np.unique(cells)]
    rho = spearman(x, y)
    draws = []
    for drawn in generator.integers(len(members), size=(_DRAWS, len(members))):
        runs = np.concatenate([members[cell] for cell in drawn])
        if len(np.unique(x[runs])) > 1 and len(np.unique(y[runs])) > 1:
            draws.append(spearman(x[runs], y[runs]))
    alike = [np.flatnonzero(seeds == each) for each in np.unique(seeds)]
    moved, as_far = np.empty_like(x), 0
    for _ in range(_PERMUTATIONS):
        for runs in alike:
            moved[runs] = generator.permutation(x[runs])
        as_far += abs(spearman(moved, y)) >= abs(rho) - 1e-12
    p = (1 + as_far) / (1 + _PERMUTATIONS)
    return RankCorrelation(estimate(rho, np.array(draws or [0.0])), p, points, len(y))


def spearman(x: Float64[np.ndarray, " runs"], y: Float64[np.ndarray, " runs"]) -> float:
    """Correlation of the ranks, ties at their mean rank; 0 where one of them does not vary."""
    first, second = _ranks(x), _ranks(y)
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]
