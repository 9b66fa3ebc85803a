"""The plan: which samples a step takes, for any number of ranks, over epochs and mixtures."""

import time
from collections import Counter
from math import factorial

import numpy as np
import pytest

from data.mixture import Mixture
from data.permutation import key_of, permuted, shuffled
from data.plan import Plan, choose_streams, difference, held_out_rows
from tests.reference import slow_plan

SHARDS = [5, 1, 7, 4, 9, 3]  # 29 samples


def plan(shards=SHARDS, global_batch=4, streams=2, **options) -> Plan:
    lists = shards if isinstance(shards[0], list) else [shards]
    return Plan([np.array(each) for each in lists], global_batch, streams, **options)


# --- permutations ------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 1024, 1025, 4097, 70_000])
def test_a_permutation_meets_every_place_once(length):
    assert sorted(shuffled(length, key_of("any")).tolist()) == list(range(length))


def test_the_first_places_of_a_long_order_are_anywhere():
    """Chi-square of where the network sends a place, over 16 bins, 15 degrees of freedom."""
    went = np.array([permuted(np.array([0, 1, 1500]), 2000, key_of(k)) for k in range(800)])
    for places in went.T:
        bins = np.bincount(places * 16 // 2000, minlength=16)
        assert ((bins - 50) ** 2 / 50).sum() < 45


@pytest.mark.parametrize("length", [3, 4])
def test_all_permutations_are_equally_likely(length):
    draws = 200 * factorial(length)
    seen = Counter(tuple(shuffled(length, key_of(k)).tolist()) for k in range(draws))
    assert len(seen) == factorial(length)
    assert sum((count - 200) ** 2 / 200 for count in seen.values()) < 50  # chi-square, 23 at most


def test_neighbors_and_epochs_are_independent():
    order, other = shuffled(4096, key_of("a")), shuffled(4096, key_of("b"))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.06
    assert abs(np.corrcoef(order, other)[0, 1]) < 0.06
    assert (order == other).sum() < 8


def test_the_permutation_is_that_of_its_slow_twin_and_of_every_platform():
    for length in (1, 5, 300, 1025, 10**8):
        places = np.arange(min(length, 40))
        slow = [slow_plan.permuted(int(p), length, 2**64 - 3) for p in places]
        assert permuted(places, length, 2**64 - 3).tolist() == slow
    # Another order would make every checkpoint go on with other batches.
    places = [permuted(np.arange(3), n, key_of("fixed", 1)).tolist() for n in (1000, 10**6)]
    assert places == [[78, 972, 131], [376529, 586372, 359756]]


# --- one folder --------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 6, 100])
@pytest.mark.parametrize("global_batch, streams", [(4, 2), (6, 6), (12, 3)])
def test_the_plan_is_that_of_its_slow_twin(global_batch, streams, window):
    fast = plan(SHARDS, global_batch, streams, seed=3, window=window)
    slow = slow_plan.batches(SHARDS, global_batch, streams, 3, window, num_steps=12)
    for step, rows in enumerate(slow):
        tickets = fast.rows(step)
        assert list(zip(tickets.epoch.tolist(), tickets.sample.tolist(), strict=True)) == rows


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("global_batch, streams", [(4, 2), (6, 6), (12, 3), (12, 12)])
def test_an_epoch_shows_no_sample_twice_and_leaves_out_few(global_batch, streams, window):
    one = plan(SHARDS, global_batch, streams, window=window)
    left_out = []
    for epoch in range(4):
        steps = range(epoch * one.steps_per_epoch, (epoch + 1) * one.steps_per_epoch)
        tickets = [one.rows(step) for step in steps]
        assert {int(e) for t in tickets for e in t.epoch} == {epoch}
        seen = Counter(int(s) for t in tickets for s in t.sample)
        assert set(seen.values()) == {1}
        left_out.append(frozenset(set(range(29)) - seen.keys()))
        assert len(left_out[-1]) < streams + global_batch
    assert len(set(left_out)) > 1


def test_ranks_hold_runs_of_rows_of_the_same_batch():
    one = plan(global_batch=12, streams=12)
    for world in (1, 2, 3, 4, 6, 12):
        share = 12 // world
        parts = [one.rows(3, r * share, (r + 1) * share).sample for r in range(world)]
        assert np.concatenate(parts).tolist() == one.rows(3).sample.tolist()


def test_a_window_keeps_the_shards_in_use_few():
    shards = [100] * 50
    order = plan(shards, 10, 1, window=200).orders[0]
    samples = order.sample_at(np.arange(5000), 0) // 100
    used = [len(set(samples[start : start + 200].tolist())) for start in range(0, 5000, 200)]
    assert set(used) == {2}
    everywhere = plan(shards, 10, 1).orders[0].sample_at(np.arange(200), 0) // 100
    assert len(set(everywhere.tolist())) > 40


def test_seed_and_epoch_change_the_order():
    orders = [plan(seed=s).rows(step).sample.tolist() for s, step in ((0, 0), (1, 0), (0, 7))]
    assert plan().steps_per_epoch == 7
    assert len(set(map(tuple, orders))) == 3


def test_a_hundred_million_samples_cost_no_time():
    big = plan([1000] * 100_000, global_batch=96, streams=12, window=50_000)
    start = time.perf_counter()
    assert len(set(big.rows(1_000_000).sample.tolist())) == 96
    assert plan([1000] * 100_000, 96, 12).rows(1_000_000).sample.max() < 10**8
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"global_batch": 30, "streams": 2}, "folder of 29 samples is too small for batches of 30"),
        ({"streams": 3}, r"data\.streams=3 does not divide .* 4 samples .* one of 1, 2, 4"),
        ({"window": 0}, r"data\.window=0"),
    ],
)
def test_what_does_not_fit_is_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(**given)


@pytest.mark.parametrize(
    "global_batch, world, streams",
    [(96, 1, 12), (24, 4, 12), (256, 8, 16), (16, 8, 16), (4, 2, 4), (18, 1, 18), (120, 5, 15)],
)
def test_streams_are_chosen_so_that_ranks_get_whole_ones(global_batch, world, streams):
    assert choose_streams(global_batch, world) == streams
    assert global_batch % streams == 0 and streams % world == 0


def test_streams_that_ranks_cannot_share_are_refused():
    with pytest.raises(ValueError, match=r"data\.streams=4 .* to 8 ranks; .* one of 8, 16"):
        choose_streams(16, 8, 4)


def test_plans_are_compared_in_words():
    before = {"seed": 0, "streams": 12}
    assert difference(before, dict(before)) == ""
    assert difference(before, {"seed": 1, "streams": 12}) == "seed 0 then and 1 now"


# --- mixtures ----------------------------------------------------------------------------------


def test_a_mixture_gives_each_folder_its_exact_share_in_every_thousand():
    mixture = Mixture([0.7, 0.2, 0.1], seed=0)
    for cycle in range(3):
        number = np.arange(1000) + cycle * 1000
        source, which = mixture.assign(np.full(1000, 5), number)
        assert np.bincount(source).tolist() == [700, 200, 100]
        for each, count in enumerate((700, 200, 100)):
            own = sorted(which[source == each].tolist())
            assert own == list(range(cycle * count, (cycle + 1) * count))


def test_shares_are_rounded_to_a_thousandth_and_never_to_nothing():
    assert Mixture([1.0, 1.0, 1.0], 0).counts.tolist() == [334, 333, 333]
    assert Mixture([1e6, 1.0], 0).counts.tolist() == [999, 1]
    assert Mixture([1e6] + [1.0] * 3, 0).counts.sum() == 1000


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -1.0], [float("inf"), 1.0]])
def test_weights_that_are_not_positive_are_refused(weights):
    with pytest.raises(ValueError, match=r"data\.weights="):
        Mixture(weights, 0)


def test_a_mixture_shows_no_sample_twice_in_an_epoch_of_its_folder():
    mixed = plan([SHARDS, [4, 4]], global_batch=4, streams=2, weights=[0.6, 0.4])
    tickets = [mixed.rows(step) for step in range(500)]
    seen = Counter()
    for t in tickets:
        seen.update(zip(t.source.tolist(), t.epoch.tolist(), t.sample.tolist(), strict=True))
    assert set(seen.values()) == {1}
    rows = Counter(source for source, _, _ in seen.elements())
    assert rows == {0: 1200, 1: 800}
    # 28 of 29 and all 8 in an epoch; the small folder has had a hundred of them
    assert max(epoch for source, epoch, _ in seen if source == 1) == 99
    full = Counter((source, epoch) for source, epoch, _ in seen)
    assert full[0, 0] == 28 and full[1, 0] == 8


def test_weights_default_to_the_number_of_samples():
    mixed = plan([[30], [10]], global_batch=4, streams=2)
    assert mixed.mixture.counts.tolist() == [750, 250] and mixed.steps_per_epoch == 10


def test_ranks_hold_runs_of_rows_of_a_mixed_batch_too():
    mixed = plan([SHARDS, [40]], global_batch=12, streams=12, weights=[0.5, 0.5], window=5)
    whole, halves = mixed.rows(11), [mixed.rows(11, 0, 6), mixed.rows(11, 6, 12)]
    for name in ("source", "epoch", "sample"):
        parts = np.concatenate([getattr(half, name) for half in halves])
        assert parts.tolist() == getattr(whole, name).tolist()


# --- validation --------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("samples", [[7], [3, 8], [1]])
def test_every_held_out_sample_counts_once_and_ranks_get_equally_many(samples, world):
    ranks = [held_out_rows(samples, 3, rank, world) for rank in range(world)]
    assert len({tuple(len(t.sample) for t in batches) for batches in ranks}) == 1
    assert sum(len(t.sample) for t in ranks[0]) == -(-sum(samples) // world)
    counted = Counter()
    for batches in ranks:
        for t in batches:
            rows = zip(t.source.tolist(), t.sample.tolist(), t.weight.tolist(), strict=True)
            counted.update((source, sample) for source, sample, weight in rows if weight)
    expected = [(s, n) for s, count in enumerate(samples) for n in range(count)]
    assert sorted(counted.elements()) == expected
