"""When flow emerged in a run: the probe at which answers first were clearly better than none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studies.card import CurvePoint

SHARE = 0.5  # of zero motion's EPE


@dataclass(frozen=True)
class Emergence:
    """The first probe that saw flow: what had been spent by then."""

    step: int
    tokens: int
    flops: float


def emergence(curve: Sequence[CurvePoint], set_name: str, share: float = SHARE) -> Emergence | None:
    """The first probe with EPE <= ``share`` of zero motion's that the next probe confirms.

    The last probe needs no confirmation. None: not within the run. Probes without this set, or
    without a finite error on it, do not count.
    """
    probed = [point for point in curve if _measured(point, set_name)]
    seen = [
        point.sets[set_name].epe_px <= share * point.sets[set_name].zero_epe_px for point in probed
    ]
    for place, point in enumerate(probed):
        if all(seen[place : place + 2]):
            return Emergence(point.step, point.tokens, point.flops)
    return None


def _measured(point: CurvePoint, set_name: str) -> bool:
    figures = point.sets.get(set_name)
    return figures is not None and math.isfinite(figures.epe_px)
