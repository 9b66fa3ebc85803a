"""Which questions of a set of tracks are asked: a query mode, a seeded part of it, or a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Int

from data.readers.zwm_pairs import ZwmPair, read_zwm_pairs
from tracing.benchmarks.track_queries import Queries, asked_items, in_order, queries_of
from tracing.benchmarks.track_subset import drawn
from tracing.metrics import functional

OFF = 1e-3  # shares: a query of a list may be so far from the annotation


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What ``task.query_mode``, ``task.share``, ``task.num_queries`` and ``task.pairs`` say.

    Args:
        query_mode: ``first``, ``strided`` or ``cfg``.
        share: of all (query, target frame) items, drawn by frame gap.
        num_queries: as many items, drawn so.
        pairs: a ``dataset.json`` of ZWM; exactly its items are asked.

    Raises:
        ValueError: the mode is unknown, a number leaves nothing, or two of them contradict.
    """

    query_mode: str = "first"
    share: float | None = None
    num_queries: int | None = None
    pairs: str | Path | None = None

    def __post_init__(self) -> None:
        if self.query_mode not in get_args(functional.QueryMode):
            raise ValueError(
                f"task.query_mode={self.query_mode!r} is not known; use one of "
                f"{', '.join(get_args(functional.QueryMode))}."
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"task.share={self.share} is no share; pass one over 0, up to 1.")
        if self.num_queries is not None and self.num_queries < 1:
            raise ValueError(f"task.num_queries={self.num_queries} asks nothing; pass 1 or more.")
        if self.share is not None and self.num_queries is not None:
            raise ValueError(
                f"task.share={self.share} and task.num_queries={self.num_queries} both say how "
                "many items to draw; pass one of the two."
            )
        if self.pairs is not None and (self.is_drawn or self.query_mode != "first"):
            raise ValueError(
                f"task.pairs={self.pairs} lists what is asked, so leave out task.query_mode, "
                "task.share and task.num_queries."
            )

    @property
    def is_drawn(self) -> bool:
        """Whether a part of what the query mode asks is drawn."""
        return self.share is not None or self.num_queries is not None

    def kept(self, gaps: Sequence[Int[np.ndarray, " _"]], seed: int) -> list[np.ndarray] | None:
        """Which items are drawn, by video; None: all of them."""
        if not self.is_drawn:
            return None
        number = self.num_queries or max(1, round(self.share * sum(len(own) for own in gaps)))
        return drawn(gaps, number, seed)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked of one video: (query, target frame) items in the order of asking."""

    queries: Queries
    items: Int[np.ndarray, "items 2"]
    ad_zeros: int  # query frames that count in AD, with error 0

    @property
    def gap(self) -> Int[np.ndarray, " items"]:
        return self.items[:, 1] - self.queries.frame.numpy()[self.items[:, 0]]


def questions_of(
    points: torch.Tensor, visible: torch.Tensor, choice: Choice, given: Queries | None
) -> Questions:
    """All that a query mode asks of a video; points in px."""
    queries = queries_of(points, visible, choice.query_mode, given)
    items = asked_items(queries, visible.shape[1], choice.query_mode)
    zeros = int(visible[queries.point, queries.frame].sum())
    return Questions(queries=queries, items=items, ad_zeros=zeros)


class Listed:
    """The questions of a ``dataset.json``, video by video.

    Raises:
        ValueError: as ``read_zwm_pairs``; a video of the list is not among ``names``.
    """

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        self.path = Path(path)
        self._by_video: dict[str, list[ZwmPair]] = {}
        for pair in read_zwm_pairs(path):
            self._by_video.setdefault(pair.video, []).append(pair)
        unknown = sorted(set(self._by_video) - set(names))
        if unknown:
            raise ValueError(
                f"{path} asks for the video {unknown[0]!r} ({len(unknown)} such), which the tracks "
                "do not hold; pass task.path=FILE.pkl of the set that the list was made from."
            )

    def questions(self, name: str, points: torch.Tensor, visible: torch.Tensor) -> Questions:
        """What the list asks of a video whose points are px at 256x256.

        An item whose target is the query frame itself is not put to tracers: its error is 0, and
        like every query frame it counts in AD alone.

        Raises:
            ValueError: the tracks have no such point or frame, or the query lies elsewhere there.
        """
        pairs = self._by_video.get(name, [])
        for pair in pairs:
            self._check(pair, points, visible)
        starts = sorted({(pair.point, pair.query_frame) for pair in pairs})
        number = {start: row for row, start in enumerate(starts)}
        start = torch.tensor(starts, dtype=torch.int64).reshape(-1, 2)
        queries = Queries(point=start[:, 0], frame=start[:, 1], xy=points[start[:, 0], start[:, 1]])
        items = [
            (number[pair.point, pair.query_frame], pair.target_frame)
            for pair in pairs
            if pair.target_frame != pair.query_frame
        ]
        array = np.array(items, np.int64).reshape(-1, 2)
        zeros = len(pairs) - len(items)
        return Questions(queries=queries, items=in_order(array, queries), ad_zeros=zeros)

    def _check(self, pair: ZwmPair, points: torch.Tensor, visible: torch.Tensor) -> None:
        num_points, num_frames = visible.shape
        if pair.point >= num_points or max(pair.query_frame, pair.target_frame) >= num_frames:
            raise ValueError(
                f"{self.path} asks {pair.uid}, but the tracks have {num_points} points over "
                f"{num_frames} frames there; pass the set that the list was made from."
            )
        if not visible[pair.point, pair.query_frame]:
            raise ValueError(
                f"{self.path} asks {pair.uid}, whose query is hidden in the tracks; pass the set "
                "that the list was made from."
            )
        at = points[pair.point, pair.query_frame] / functional.BENCHMARK_HW[0]
        off = max(abs(a - b) for a, b in zip(at.tolist(), pair.query, strict=True))
        if not off <= OFF or pair.occluded == bool(visible[pair.point, pair.target_frame]):
            raise ValueError(
                f"{self.path} and the tracks disagree on {pair.uid} (the query is {off:.3f} of the "
                "frame away, or only one calls the target hidden); pass the set that the list was "
                "made from."
            )
