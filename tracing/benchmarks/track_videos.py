"""Videos of tracks as flat lists of items, and the answers put together again video by video.

An item is one question: where is query k in frame t? The items of a video stand in the order in
which they are asked, pair of frames by pair of frames, so that answers only need to be joined.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.coords import rescale_points
from tracing.benchmarks.base import Tracer
from tracing.benchmarks.track_queries import Queries
from tracing.config import Traces
from tracing.metrics import functional
from tracing.occlusion import Evidence


class Asked(NamedTuple):
    """Items ``start`` to ``stop`` of a video: all that are asked with one pair of frames."""

    video: int
    q: int  # the frame they are queried in
    t: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class VideoTracks:
    """The ground truth of what is asked of one video, in px at 256x256.

    ``ad_zeros`` says how many query frames enter AD with error 0.
    """

    name: str
    queries: Queries
    query: Int[Tensor, " items"]  # which of ``queries``
    frame: Int[Tensor, " items"]  # the target's
    target: Float[Tensor, "items 2"]
    visible: Bool[Tensor, " items"]
    ad_zeros: int

    def __len__(self) -> int:
        return len(self.query)

    @property
    def start_xy(self) -> Float[Tensor, "items 2"]:
        """Where the query of each item is."""
        return self.queries.xy[self.query]

    @property
    def point(self) -> Int[Tensor, " items"]:
        """The point of each item."""
        return self.queries.point[self.query]

    @property
    def gap(self) -> Int[Tensor, " items"]:
        """Frames from the query to the target; below 0 backwards in time."""
        return self.frame - self.queries.frame[self.query]

    @cached_property
    def pairs(self) -> Int[np.ndarray, "pairs 4"]:
        """q, t, start, stop of each pair of frames."""
        both = np.stack([self.queries.frame[self.query].numpy(), self.frame.numpy()], 1)
        changed = (both[1:] != both[:-1]).any(1)
        start = np.concatenate([np.zeros(min(len(both), 1), int), changed.nonzero()[0] + 1])
        stop = np.append(start[1:], [len(both)][: len(start)])
        return np.concatenate([both[start], start[:, None], stop[:, None]], 1).astype(np.int64)


class Answer(NamedTuple):
    """What a tracer said of the points of one pair of frames."""

    xy: Float[Tensor, "points 2"]
    visible: Bool[Tensor, " points"]
    evidence: Evidence


class Recorded:
    """A tracer that keeps its answers, one pair of frames each, in px at 256x256.

    ``names`` are those of the parts it will be given, in order.
    """

    def __init__(self, tracer: Tracer, names: Iterable[str]) -> None:
        self.tracer, self.name, self.needs_model = tracer, tracer.name, tracer.needs_model
        if hasattr(tracer, "input_hw"):
            self.input_hw = tracer.input_hw
        self.answers: list[Answer] = []
        self._names = iter(names)

    def __call__(
        self,
        frame0: Float[Tensor, "1 3 height width"],
        frame1: Float[Tensor, "1 3 height width"],
        points: Float[Tensor, "1 points 2"],
        seed: int = 0,
    ) -> Traces:
        traces = self.tracer(frame0, frame1, points, seed=seed)
        self._check(traces, points, next(self._names))
        frame_hw = (frame0.shape[-2], frame0.shape[-1])
        xy = rescale_points(traces.xy[0], frame_hw, functional.BENCHMARK_HW).cpu()
        cues = {
            cue: None if values is None else values[0].cpu().double()
            for cue, values in (("peak_kl", traces.peak_kl), ("return_px", traces.return_px))
        }
        self.answers.append(Answer(xy, traces.visible[0].cpu(), Evidence(**cues)))
        return traces

    def _check(self, traces: Traces, points: Tensor, part: str) -> None:
        got, visible = tuple(traces.xy.shape), tuple(traces.visible.shape)
        if traces.xy.shape != points.shape or visible != got[:2]:
            raise ValueError(
                f"{self.name} answers {part} with positions {got} and visibility {visible} for "
                f"queries {tuple(points.shape)}; a tracer must answer every query once."
            )
        if bad := int((~traces.xy.isfinite()).any(-1).sum()):
            raise ValueError(
                f"{self.name} answers {bad} of {points.shape[1]} points of {part} with a position "
                "that is no number; mend the tracer, since such an answer cannot be scored."
            )


class Joined(NamedTuple):
    """Positions and visibility as a tracer says, by video; the evidence of all videos, in order."""

    pred: list[Float[Tensor, "_ 2"]]
    called: list[Bool[Tensor, " _"]]
    evidence: Evidence


def joined(answers: Sequence[Answer], videos: Sequence[VideoTracks]) -> Joined:
    """The answers of all pairs of frames as items of the videos."""
    sizes = [len(video) for video in videos]
    asked = sum(len(video.pairs) for video in videos)
    # What nobody was asked for would pass for the corner of the image.
    assert len(answers) == asked, f"{len(answers)} answers to {asked} pairs of frames"
    xy = torch.cat([answer.xy for answer in answers])
    said = torch.cat([answer.visible for answer in answers])
    told = [
        cue for cue in ("peak_kl", "return_px") if getattr(answers[0].evidence, cue) is not None
    ]
    cues = {cue: torch.cat([getattr(answer.evidence, cue) for answer in answers]) for cue in told}
    return Joined(list(xy.split(sizes)), list(said.split(sizes)), Evidence(**cues))


def flat(values: Iterable[Tensor]) -> Tensor:
    """Values of items, one tensor a video, as one list."""
    return torch.cat(list(values))


def by_video(called: Bool[Tensor, " n"], videos: Sequence[VideoTracks]) -> list[Tensor]:
    """Inverse of ``flat``."""
    return list(called.split([len(video) for video in videos]))
