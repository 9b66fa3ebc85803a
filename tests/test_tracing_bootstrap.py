import pytest
import torch
from jaxtyping import TypeCheckError

from tracing.metrics.bootstrap import bootstrap_mean, bootstrap_paired, bootstrap_unpaired


def normal(count, seed, mean=0.0, spread=1.0):
    return mean + spread * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_interval_of_many_normal_values_is_the_textbook_one():
    values = normal(400, 0, mean=3.0, spread=2.0).double()
    interval = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std().item() / 400**0.5
    assert interval.mean == pytest.approx(values.mean().item(), abs=1e-12)
    assert interval.low == pytest.approx(interval.mean - half, rel=0.02)
    assert interval.high == pytest.approx(interval.mean + half, rel=0.02)


def test_one_seed_gives_one_interval_and_another_seed_another():
    values = normal(50, 0)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)


def test_pairing_finds_a_small_steady_difference_that_unpaired_samples_hide():
    hard = normal(100, 0, spread=5.0)
    better, worse = hard - 0.2 + normal(100, 1, spread=0.1), hard
    assert bootstrap_paired(better, worse, seed=0).excludes_zero
    assert not bootstrap_unpaired(better, worse, seed=0).excludes_zero


def test_no_difference_gives_exactly_zero():
    values = normal(10, 0)
    interval = bootstrap_paired(values, values, seed=0)
    assert (interval.mean, interval.low, interval.high) == (0, 0, 0)


def test_points_that_fail_together_widen_the_interval():
    per_pair = normal(20, 0)
    values, groups = per_pair.repeat_interleave(16), torch.arange(20).repeat_interleave(16)
    alone, together = bootstrap_mean(values, 0), bootstrap_mean(values, 0, groups)
    per_group = bootstrap_mean(per_pair, 0)
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert together.low == pytest.approx(per_group.low, abs=1e-6)


def test_groups_of_any_size_enter_with_all_their_points():
    groups = torch.tensor([0] * 9 + [1])
    interval = bootstrap_mean(torch.ones(10), seed=0, groups=groups)
    assert (interval.mean, interval.low, interval.high) == (1, 1, 1)
    # two draws of two groups: both small, one of each, both large
    values = torch.tensor([0.0] * 9 + [10.0])
    interval = bootstrap_mean(values, seed=0, groups=groups, level=0.2)
    assert (interval.mean, interval.low, interval.high) == (1, 1, 1)


def test_paired_samples_of_two_lengths_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        bootstrap_paired(torch.zeros(3), torch.zeros(4), seed=0)
