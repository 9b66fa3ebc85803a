"""Pictures of an evaluation: KL maps, and motion as it is and as it was traced."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from data.types import PointPairs
from tracing.benchmarks.base import Row, Tracer
from tracing.visualize import arrows_figure, kl_map_figure

Pictures = dict[str, tuple[str, Figure]]  # file stem -> caption, figure
Place = tuple[int, int, str]  # of a frame pair: its part, its place in the part, its unit


class Case(NamedTuple):
    """One unit (a video or a frame pair) that stands for others."""

    which: str  # best, median or worst
    unit: str
    epe: float  # px as stored, over the unit's scored points
    frame_pair: int  # the one whose error is nearest to the unit's


def kl_pictures(tracer: Tracer, pairs: Iterable[PointPairs], seed: int, count: int) -> Pictures:
    """KL maps of the first scored query of each of the first ``count`` pairs.

    The tracer must be of one scale, and the frames of a size that the model takes.
    """
    pictures: Pictures = {}
    for part in pairs:
        for i in range(len(part.points)):
            scored = (part.visible[i] & part.valid[i]).nonzero()[:, 0]
            if len(pictures) == count or not len(scored):
                continue
            n = scored[:1]
            traces = tracer(
                part.frame0[i : i + 1], part.frame1[i : i + 1], part.points[i][None, n], seed
            )
            query, target, answer = part.points[i, n[0]], part.target[i, n[0]], traces.xy[0, 0]
            error = (answer - target).norm().item()
            moved = (target - query).norm().item()
            caption = (
                f"Query {len(pictures)}, px as shown: moved {moved:.1f}, traced {error:.1f} off."
            )
            figure = kl_map_figure(
                part.frame0[i], part.frame1[i], query, answer, traces.maps[0, 0], target
            )
            pictures[f"kl_map_{len(pictures)}"] = (caption, figure)
        if len(pictures) == count:
            break
    return pictures


def arrow_pictures(row: Row, parts: Iterable[PointPairs], count: int) -> Pictures:
    """True and predicted motion of the scored points, for the first ``count`` pairs with any."""
    pictures: Pictures = {}
    number = -1
    for part in parts:
        for frame0 in part.frame0:
            number += 1
            own = row.frame_pair == number
            if len(pictures) == count or not bool(own.any()):
                continue
            figure = arrows_figure(
                frame0, row.points[own], row.xy[own], row.target[own], f"{row.name}, pair {number}"
            )
            caption = f"Pair {number}: motion of {int(own.sum())} points, true and by {row.name}."
            pictures[f"arrows_{len(pictures)}"] = (caption, figure)
        if len(pictures) == count:
            break
    return pictures


def case_pictures(row: Row, parts: Sequence[PointPairs], places: Sequence[Place]) -> Pictures:
    """Motion in the best, the median and the worst unit of a row, true and predicted.

    Args:
        places: where in ``parts`` each frame pair of the row stands.
    """
    pictures: Pictures = {}
    scored = {places[number][2] for number in row.frame_pair.tolist()}
    for case in cases(row, places):
        part, place, _ = places[case.frame_pair]
        own = row.frame_pair == case.frame_pair
        title = f"{row.name}, {case.unit}: {case.which}"
        frame0 = parts[part].frame0[place]
        figure = arrows_figure(frame0, row.points[own], row.xy[own], row.target[own], title)
        caption = (
            f"{case.which.capitalize()} of {len(scored)} by EPE of {row.name}: "
            f"{case.unit}, {case.epe:.2f} px as stored; one of its frame pairs, "
            f"{int(own.sum())} points."
        )
        pictures[f"case_{case.which}"] = (caption, figure)
    return pictures


def cases(row: Row, places: Sequence[Place]) -> Iterator[Case]:
    """The units of least, middle and largest EPE, each at most once; of two middles the better."""
    pair = row.frame_pair.numpy()
    sums = np.bincount(pair, row.errors.numpy(), len(places))
    counts = np.bincount(pair, minlength=len(places))
    own: dict[str, list[int]] = {}
    for number, (_, _, unit) in enumerate(places):
        if counts[number]:
            own.setdefault(unit, []).append(number)
    epe = {unit: sums[n].sum() / counts[n].sum() for unit, n in own.items()}
    ranked = sorted(epe, key=lambda unit: (epe[unit], unit))
    chosen = {ranked[(len(ranked) - 1) // 2]: "median", ranked[-1]: "worst", ranked[0]: "best"}
    for unit, which in sorted(chosen.items(), key=lambda item: ranked.index(item[0])):
        away = [abs(sums[n] / counts[n] - epe[unit]) for n in own[unit]]
        yield Case(which, unit, float(epe[unit]), own[unit][int(np.argmin(away))])
