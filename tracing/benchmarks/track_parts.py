"""What is asked of a set of tracks, one pair of frames a part, with one video open at a time."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.readers.tapvid import TrackSource
from data.types import PointPairs, TrackSet
from tracing.benchmarks.evaluation import on_device
from tracing.benchmarks.track_choice import Choice, Listed, Questions, questions_of
from tracing.benchmarks.track_queries import Queries
from tracing.benchmarks.track_videos import Asked, VideoTracks
from tracing.metrics import functional


class TrackParts(Sequence[PointPairs]):
    """One part for each pair of frames: all points that are asked for there, as stored.

    Parts are named "<video>/<query frame>-<target frame>". A query that is annotated outside its
    frame is asked at the nearest point of the border.

    Args:
        every: of each video only frames 0, every, 2 * every, ... are there.
        points_per_video: at most so many, drawn from those ever visible; None for all.
    """

    def __init__(
        self,
        file: TrackSource,
        num_videos: int | None,
        points_per_video: int | None,
        every: int,
        seed: int,
        device: str,
        choice: Choice = Choice(),  # noqa: B008 - frozen
    ) -> None:
        self.file, self.every, self.device, self.choice = file, every, device, choice
        self.names = file.names[:num_videos]
        self.kept: list[Tensor] = []  # indices of the points that take part, by video
        listed = None if choice.pairs is None else Listed(choice.pairs, file.names)
        questions, tracks = [], []
        for index, name in enumerate(self.names):
            target, visible = self._thinned(index, functional.BENCHMARK_HW)
            kept, given = self._starting(index, visible, points_per_video, f"points/{seed}/{name}")
            if listed is None:
                asked = questions_of(target[kept], visible[kept], choice, given)
            else:
                kept = torch.arange(len(target))
                asked = listed.questions(name, target, visible)
            self.kept.append(kept)
            questions.append(asked)
            tracks.append((target[kept], visible[kept]))
        self.num_all = sum(len(asked.items) for asked in questions)  # before a part is drawn
        masks = choice.kept([asked.gap for asked in questions], seed)
        self.videos = [
            _video(name, *own, asked, None if masks is None else masks[index])
            for index, (name, own, asked) in enumerate(
                zip(self.names, tracks, questions, strict=True)
            )
        ]
        self._numbers = list(range(len(self.videos)))  # of the videos in the file
        self._begin()

    def _begin(self) -> None:
        self._starts = [0, *accumulate(len(video.pairs) for video in self.videos)]
        self._open: tuple[int, TrackSet, Tensor] | None = None

    def only(self, names: Sequence[str]) -> "TrackParts":
        """The same questions about these videos alone."""
        fewer, wanted = copy(self), set(names)
        chosen = [index for index, video in enumerate(self.videos) if video.name in wanted]
        for each in ("names", "kept", "videos", "_numbers"):
            setattr(fewer, each, [getattr(self, each)[index] for index in chosen])
        fewer.__dict__.pop("names_of_parts", None)
        fewer._begin()
        return fewer

    def _thinned(self, index: int, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        points, visible = self.file.tracks(index, hw)
        return points[:, :: self.every], visible[:, :: self.every]

    def _starting(
        self, index: int, visible: Bool[Tensor, "points time"], at_most: int | None, salt: str
    ) -> tuple[Tensor, Queries | None]:
        """The points that take part, and their queries where those are given."""
        given = self.file.queries(index, functional.BENCHMARK_HW)
        if given is None:
            return _chosen(visible.any(1), at_most, salt), None
        if self.every > 1:
            raise ValueError(
                f"task.every={self.every} would drop frames that the queries of {self.file.path} "
                "start in; leave it at 1."
            )
        kept = _chosen(torch.ones(len(visible), dtype=torch.bool), at_most, salt)
        numbers = torch.arange(len(kept))
        return kept, Queries(point=numbers, frame=given.frame[kept], xy=given.xy[kept])

    def __len__(self) -> int:
        return self._starts[-1]

    def asked(self, index: int) -> Asked:
        """What part ``index`` asks."""
        if not 0 <= index < len(self):
            raise IndexError(f"part {index} of {len(self)}")
        video = bisect_right(self._starts, index) - 1
        return Asked(video, *self.videos[video].pairs[index - self._starts[video]].tolist())

    @cached_property
    def names_of_parts(self) -> list[str]:
        """The names of all parts; no frame is read for them."""
        return [
            f"{video.name}/{q:03d}-{t:03d}"
            for video in self.videos
            for q, t in video.pairs[:, :2].tolist()
        ]

    def middle(self, video: int) -> int | None:
        """The part half way through a video; None if nothing is asked there."""
        start, stop = self._starts[video : video + 2]
        return start + (stop - start) // 2 if stop > start else None

    def __getitem__(self, index: int) -> PointPairs:
        asked = self.asked(index)
        if self._open is None or self._open[0] != asked.video:
            self._open = None  # its memory is free before the next one is read
            self._open = (asked.video, *self._read(asked.video))
        return on_device(_pair(*self._open[1:], self.videos[asked.video], asked), self.device)

    def _read(self, video: int) -> tuple[TrackSet, Float[Tensor, "queries 2"]]:
        """The video as stored, with the points that take part, and where its queries are."""
        number, kept, queries = self._numbers[video], self.kept[video], self.videos[video].queries
        stored = self.file[number]
        hw = (stored.frames.shape[2], stored.frames.shape[3])
        points, visible = (each[kept] for each in self._thinned(number, hw))
        given = None if self.choice.query_mode == "cfg" else self.file.queries(number, hw)
        if given is not None and self.choice.pairs is None:
            start = given.xy[kept][queries.point]
        else:
            start = points[queries.point, queries.frame]
        return TrackSet(points, visible, stored.frames[:: self.every], stored.name), start


def _chosen(eligible: Bool[Tensor, " points"], at_most: int | None, salt: str) -> Tensor:
    """Indices of the eligible points, or of a seeded draw from them, in order."""
    numbers = eligible.nonzero()[:, 0].tolist()
    if at_most is not None and at_most < len(numbers):
        numbers = sorted(random.Random(salt).sample(numbers, at_most))
    return torch.tensor(numbers, dtype=torch.int64)


def _video(
    name: str,
    points: Float[Tensor, "points time 2"],
    visible: Bool[Tensor, "points time"],
    asked: Questions,
    mask: np.ndarray | None,
) -> VideoTracks:
    """Ground truth of what is asked, or of the part of it that was drawn, where AD has no zeros."""
    items = torch.from_numpy(asked.items if mask is None else asked.items[mask])
    at = (asked.queries.point[items[:, 0]], items[:, 1])
    return VideoTracks(
        name=name,
        queries=asked.queries,
        query=items[:, 0],
        frame=items[:, 1],
        target=points[at],
        visible=visible[at],
        ad_zeros=asked.ad_zeros if mask is None else 0,
    )


def _pair(
    track: TrackSet, start: Float[Tensor, "queries 2"], video: VideoTracks, asked: Asked
) -> PointPairs:
    query = video.query[asked.start : asked.stop]
    own = video.queries.point[query]
    border = track.points.new_tensor([track.frames.shape[3], track.frames.shape[2]])
    return PointPairs(
        frame0=track.frames[asked.q][None].float() / 255,
        frame1=track.frames[asked.t][None].float() / 255,
        points=start[query][None].clamp_min(0).minimum(border),
        target=track.points[own, asked.t][None],
        visible=track.visible[own, asked.t][None],
        valid=torch.ones(1, len(own), dtype=torch.bool),
        name=f"{video.name}/{asked.q:03d}-{asked.t:03d}",
    )
