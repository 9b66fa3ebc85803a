"""Metrics of dense flow: by hand, against the slow twin, and at their thresholds."""

import numpy as np
import pytest
import torch

from tests.reference import slow_flow_metrics as slow
from tracing.metrics.flow import SCORES, nearest_true_flow, pair_scores, pair_sums, set_scores


def random_pair(seed, size=(7, 9), speed=30.0, visible=True):
    """Flow of all speeds, predictions off by up to some pixels, a fifth of the pixels not valid."""
    random = np.random.default_rng(seed)
    flow = (random.normal(size=(2, *size)) * speed).astype(np.float32)
    off = random.normal(size=(2, *size)) * random.choice([0.02, 0.5, 5.0], size=size)
    pred = (flow + off).astype(np.float32)
    valid = random.random(size) < 0.8
    return pred, flow, valid, random.random(size) < 0.6 if visible else None


def tensors(pair):
    return [None if part is None else torch.from_numpy(part) for part in pair]


def one_pixel(error, length=0.0):
    flow = torch.tensor([length, 0.0])[:, None, None]
    pred = flow + torch.tensor([0.0, error])[:, None, None]
    return pair_scores(pair_sums(pred, flow, torch.ones(1, 1, dtype=torch.bool)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("visible", [True, False])
def test_scores_of_a_pair_equal_the_slow_twin(seed, visible):
    pair = random_pair(seed, visible=visible)
    expected, found = slow.slow_pair(*pair), pair_scores(pair_sums(*tensors(pair)))
    assert set(expected) == set(found) == set(SCORES)
    assert found == {name: pytest.approx(expected[name], abs=1e-9) for name in SCORES}
    assert (found["epe_visible"] is None) == (not visible)


def test_both_means_of_a_set_equal_the_slow_twin():
    pairs = [random_pair(seed, size) for seed, size in enumerate([(4, 5), (9, 11), (3, 3)])]
    pairs.append(random_pair(9, visible=False))
    pairs.append((*random_pair(10)[:2], np.zeros((7, 9), bool), None))  # nothing known: left out
    expected = slow.slow_set(pairs)
    found = set_scores([pair_sums(*tensors(pair)) for pair in pairs])
    assert found == {name: pytest.approx(value, abs=1e-9) for name, value in expected.items()}
    assert found["pairs"] == 4 and found["epe"] != pytest.approx(found["epe_pooled"], abs=1e-6)


def test_a_set_without_such_pixels_has_no_such_score():
    still = torch.zeros(2, 3, 3)
    scores = set_scores([pair_sums(still, still, torch.ones(3, 3, dtype=torch.bool))])
    assert scores["s40"] is scores["s40_pooled"] is scores["epe_occluded"] is None
    assert scores["epe"] == scores["fl_all"] == 0 and scores["px1"] == 1
    assert scores["wauc"] == pytest.approx(100)


@pytest.mark.parametrize(
    "error, length, score, value",
    [
        (1.0, 0, "px1", 0),  # below, not at, the threshold
        (0.99, 0, "px1", 1),
        (3.0, 0, "fl_all", 0),  # above, not at
        (3.01, 0, "fl_all", 100),
        (4.0, 100, "fl_all", 0),  # under 5 % of the length
        (4.0, 70, "fl_all", 100),
        (0.04, 0, "wauc", 100),
        (0.06, 0, "wauc", 100 * 49.5 / 50.5),
        (0.25, 0, "wauc", 100 * 46.56 / 50.5),  # at the fifth threshold is within it
        (5.01, 0, "wauc", 0),
        (5.0, 0, "wauc", 100 * 0.01 / 50.5),
    ],
)
def test_thresholds_hold_as_published(error, length, score, value):
    assert one_pixel(error, length)[score] == pytest.approx(value)


@pytest.mark.parametrize(
    "length, own", [(9.9, "s0_10"), (10, "s10_40"), (40, "s10_40"), (41, "s40")]
)
def test_a_pixel_is_of_one_speed(length, own):
    scores = one_pixel(2.0, length)
    assert [name for name in ("s0_10", "s10_40", "s40") if scores[name] is not None] == [own]


def test_the_nearest_known_vector_counts():
    random = np.random.default_rng(0)
    pred = random.normal(size=(2, 4, 5)).astype(np.float32)
    finer = random.normal(size=(4, 2, 4, 5)).astype(np.float32)
    known = random.random((4, 4, 5)) < 0.5
    known[0] |= ~known.any(0)
    found = nearest_true_flow(*map(torch.from_numpy, (pred, finer, known)))
    assert np.array_equal(found.numpy(), slow.slow_nearest(pred, finer, known))


def test_sums_of_many_pixels_are_taken_in_float64():
    flow = torch.full((2, 1000, 1000), 1e-3)
    scores = pair_scores(pair_sums(flow, 0 * flow, torch.ones(1000, 1000, dtype=torch.bool)))
    assert scores["epe"] == pytest.approx(float(np.float32(1e-3)) * 2**0.5, rel=1e-12)
