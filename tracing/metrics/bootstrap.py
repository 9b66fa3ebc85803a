"""Seeded percentile bootstrap of a mean and of a difference of means.

``groups`` names what is independent: points of one frame pair (or video) fail together, so whole
groups are drawn with replacement. Without it every value is a group of its own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

_DRAWS_AT_ONCE = 4_000_000  # group numbers held in memory at a time


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its bootstrap interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: Float[Tensor, " n"],
    seed: int,
    groups: Int[Tensor, " n"] | None = None,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """The mean of the values and its interval; NaN bounds when there is no value."""
    means = _resampled_means(values, groups, num_resamples, torch.Generator().manual_seed(seed))
    return _interval(values.double().mean(), means, level)


def bootstrap_paired(
    first: Float[Tensor, " n"],
    second: Float[Tensor, " n"],
    seed: int,
    groups: Int[Tensor, " n"] | None = None,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """mean(first - second), where entry i of both belongs to the same point."""
    if first.shape != second.shape:
        raise ValueError(
            f"paired samples must have one length, got {len(first)} and {len(second)}; "
            "use bootstrap_unpaired for different points."
        )
    difference = first.double() - second.double()
    return bootstrap_mean(difference, seed, groups, num_resamples, level)


def bootstrap_unpaired(
    first: Float[Tensor, " n"],
    second: Float[Tensor, " m"],
    seed: int,
    first_groups: Int[Tensor, " n"] | None = None,
    second_groups: Int[Tensor, " m"] | None = None,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """mean(first) - mean(second) of two independent samples."""
    generator = torch.Generator().manual_seed(seed)
    means = _resampled_means(first, first_groups, num_resamples, generator)
    means = means - _resampled_means(second, second_groups, num_resamples, generator)
    return _interval(first.double().mean() - second.double().mean(), means, level)


def _resampled_means(
    values: Tensor, groups: Tensor | None, num_resamples: int, generator: torch.Generator
) -> Float64[Tensor, " resamples"]:
    """Means of samples of groups; a group enters with all its values, so long groups weigh more."""
    values = values.detach().cpu().double()
    if not len(values):
        return values.new_full((num_resamples,), float("nan"))
    if groups is None:
        groups = torch.arange(len(values))
    member = groups.cpu().unique(return_inverse=True)[1]
    num_groups = int(member.max()) + 1
    totals = values.new_zeros(num_groups).index_add_(0, member, values)
    counts = torch.bincount(member, minlength=num_groups).double()

    means, at_once = [], max(1, _DRAWS_AT_ONCE // num_groups)
    for start in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - start)
        drawn = torch.randint(num_groups, (rows, num_groups), generator=generator)
        means.append(totals[drawn].sum(1) / counts[drawn].sum(1))
    return torch.cat(means)


def _interval(mean: Tensor, means: Tensor, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = means.quantile(means.new_tensor([tail, 1 - tail])).tolist()
    return Interval(mean.item(), low, high)
