"""Scores of every pixel: the tracers that know it are asked for it, part by part.

A tracer with ``dense_flow`` is asked for all pixel centers; of a model's tracer the centers of
every so-many-th patch are asked, if that is wanted, and interpolated.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from data.coords import pixel_centers
from data.types import FlowPair, PointPairs
from tracing.benchmarks.base import Row, Tracer
from tracing.benchmarks.flow_parts import FlowPart
from tracing.benchmarks.remembered import check_answer
from tracing.dense import query_lattice, spread
from tracing.metrics.flow import Sums, nearest_true_flow, pair_scores, pair_sums, set_scores

FROM_A_GRID = ("kl", "rgb")  # tracers whose flow is interpolated between patches


@dataclass(frozen=True)
class DensePair:
    """One pair as one tracer scores it."""

    name: str
    hw: tuple[int, int]
    sums: Sums

    def scores(self) -> dict[str, float | int | None]:
        """``pair_scores``, and how many pixels were scored."""
        return pair_scores(self.sums) | {"pixels": int(self.sums["epe"][1])}


@dataclass(frozen=True, kw_only=True)
class FlowRow(Row):
    """A row over points, and beside it the scores over pixels of each pair."""

    by_pair: tuple[DensePair, ...] = ()  # empty: this tracer does not know every pixel

    @property
    def dense(self) -> dict[str, float | int | None] | None:
        """``set_scores``; None where this tracer does not know every pixel."""
        return set_scores([pair.sums for pair in self.by_pair]) if self.by_pair else None

    def as_dict(self) -> dict:
        return super().as_dict() | {"dense": self.dense}


class DenseAnswers:
    """Asks tracers for every pixel of the parts that pass by, and keeps the sums.

    Args:
        grid_hw: patches that a model divides its input into; None: there is no model.
        stride: of models every so-many-th patch is asked for; None: they are not asked.
    """

    def __init__(
        self,
        tracers: Sequence[Tracer],
        seed: int,
        grid_hw: tuple[int, int] | None,
        stride: int | None,
    ) -> None:
        self.tracers, self.seed, self.grid_hw, self.stride = tracers, seed, grid_hw, stride
        self.pairs: list[list[DensePair]] = [[] for _ in tracers]

    def watch(self, parts: Iterable[PointPairs]) -> Iterator[PointPairs]:
        """The parts as they come; each is asked about before the next one is taken."""
        for number, part in enumerate(parts):
            yield part
            for tracer, pairs in zip(self.tracers, self.pairs, strict=True):
                flow = self._flow(tracer, part, self.seed + number)
                if flow is not None:
                    pairs.append(_scored(flow.cpu(), part.truth))

    def rows(self, rows: Sequence[Row]) -> list[FlowRow]:
        """The rows of ``evaluate`` with what was found here."""
        return [
            FlowRow(**{f.name: getattr(row, f.name) for f in fields(Row)}, by_pair=tuple(own))
            for row, own in zip(rows, self.pairs, strict=True)
        ]

    def _flow(
        self, tracer: Tracer, part: FlowPart, seed: int
    ) -> Float[Tensor, "2 height width"] | None:
        height, width = part.frame0.shape[-2:]
        if hasattr(tracer, "dense_flow"):
            points = pixel_centers(height, width)
            return self._moved(tracer, part, points, seed)
        by_grid = tracer.name.split("@")[0] in FROM_A_GRID
        if not by_grid or self.stride is None or self.grid_hw is None:
            return None
        points = query_lattice((height, width), self.grid_hw, self.stride)
        return spread(self._moved(tracer, part, points, seed), points, height, width)

    def _moved(
        self, tracer: Tracer, part: FlowPart, points: Float[Tensor, "rows cols 2"], seed: int
    ) -> Float[Tensor, "2 rows cols"]:
        asked = rearrange(points, "r c xy -> 1 (r c) xy").to(part.points)
        xy = tracer(part.frame0, part.frame1, asked, seed=seed).xy
        check_answer(tracer.name, xy, asked, part.name)
        return rearrange((xy - asked).cpu(), "1 (r c) xy -> xy r c", r=len(points))


def _scored(flow: Float[Tensor, "2 height width"], pair: FlowPair) -> DensePair:
    true = pair.flow
    if pair.finer is not None:
        true = nearest_true_flow(flow, pair.finer, pair.finer_known)
    hw = (flow.shape[-2], flow.shape[-1])
    return DensePair(pair.name, hw, pair_sums(flow, true, pair.valid, pair.visible))


def dense_pairs(rows: Sequence[FlowRow]) -> list[dict]:
    """Scores pair by pair of all rows that know every pixel, as ``tracing.results_schema`` has it.

    Numbers are null where a pair has no such pixel; errors are in px of the pair as stored.
    """
    known = [row for row in rows if row.by_pair]
    if not known:
        return []
    table = []
    for index, pair in enumerate(known[0].by_pair):
        scores = {row.name: row.by_pair[index].scores() for row in known}
        table.append({"name": pair.name, "resolution_hw": list(pair.hw), "scores": scores})
    return table
