"""The probe at which flow was there and stayed."""

import math

import pytest

from studies.emergence import emergence
from tests.study_cards import ZERO_PX, curve

HALF = ZERO_PX / 2


@pytest.mark.parametrize(
    "epes, place",
    [
        ([9, 5, 3, 2, 1], 2),
        ([9, 5, HALF, HALF, 1], 2),  # half is enough
        ([9, 3, 5, 3, 2], 3),  # gone at the next probe: not yet
        ([9, 3, 5, 3, 5], None),
        ([9, 9, 9, 9, 3], 4),  # the last needs no next
        ([9, 9, 9, 9, 9], None),
        ([3, 3, 9, 9, 9], 0),
        ([9, 3, math.nan, 2, 9], 1),  # a probe without a figure neither confirms nor denies
        ([], None),
    ],
)
def test_flow_emerges_at_the_first_probe_that_the_next_confirms(epes, place):
    points = curve(epes)
    seen = emergence(points, "easy")
    if place is None:
        assert seen is None
    else:
        at = points[place]
        assert (seen.step, seen.tokens, seen.flops) == (at.step, at.tokens, at.flops)


def test_a_set_that_was_not_probed_never_emerges():
    assert emergence(curve([9, 1, 1]), "hard") is None


def test_the_share_is_a_knob():
    points = curve([9, 3, 1.9, 1.9])
    assert emergence(points, "easy", share=0.25).step == points[2].step
