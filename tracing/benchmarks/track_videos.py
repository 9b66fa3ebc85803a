"""Videos of tracks, what is asked of them, and the answers put together again video by video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.coords import rescale_points
from tracing.benchmarks.base import Tracer
from tracing.config import Traces
from tracing.metrics import functional
from tracing.occlusion import Evidence


@dataclass(frozen=True)
class VideoTracks:
    """The ground truth of one video's queried points, in px at 256x256."""

    target: Float[Tensor, "points time 2"]
    visible: Bool[Tensor, "points time"]
    query_frame: Int[Tensor, " points"]
    name: str

    def is_query(self) -> Bool[Tensor, "points time"]:
        """True in the frame that a point is queried in."""
        return torch.arange(self.visible.shape[1]) == self.query_frame[:, None]

    def evaluated(self) -> Bool[Tensor, "points time"]:
        """True in the frames after the query's."""
        return torch.arange(self.visible.shape[1]) > self.query_frame[:, None]


@dataclass(frozen=True)
class Asked:
    """What is asked with one pair of frames: where ``points`` of a video are in its frame ``t``."""

    video: int
    q: int  # the frame they are queried in
    t: int
    points: Int[Tensor, " points"]


class Answer(NamedTuple):
    """What a tracer said of the points of one pair of frames."""

    xy: Float[Tensor, "points 2"]
    visible: Bool[Tensor, " points"]
    evidence: Evidence


class Recorded:
    """A tracer that keeps its answers, one pair of frames each, in px at 256x256."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer, self.name, self.needs_model = tracer, tracer.name, tracer.needs_model
        if hasattr(tracer, "input_hw"):
            self.input_hw = tracer.input_hw
        self.answers: list[Answer] = []

    def __call__(
        self,
        frame0: Float[Tensor, "1 3 height width"],
        frame1: Float[Tensor, "1 3 height width"],
        points: Float[Tensor, "1 points 2"],
        seed: int = 0,
    ) -> Traces:
        traces = self.tracer(frame0, frame1, points, seed=seed)
        frame_hw = (frame0.shape[-2], frame0.shape[-1])
        xy = rescale_points(traces.xy[0], frame_hw, functional.BENCHMARK_HW).cpu()
        cues = {
            cue: None if values is None else values[0].cpu().double()
            for cue, values in (("peak_kl", traces.peak_kl), ("return_px", traces.return_px))
        }
        self.answers.append(Answer(xy, traces.visible[0].cpu(), Evidence(**cues)))
        return traces


def assembled(
    answers: Sequence[Answer], videos: Sequence[VideoTracks], asked: Sequence[Asked]
) -> tuple[list[Float[Tensor, "points time 2"]], list[Bool[Tensor, "points time"]], Evidence]:
    """Positions and visibility as the tracer says, by video; and the evidence for the latter.

    The evidence is of the evaluated frames of all videos, in the order of ``flat``.
    """
    pred = [torch.where(v.is_query()[..., None], v.target, 0.0) for v in videos]
    called = [v.is_query() for v in videos]
    told = [cue for cue in ("peak_kl", "return_px") if _tells(answers[0], cue)]
    cues = {cue: [torch.zeros(v.visible.shape).double() for v in videos] for cue in told}
    answered = [v.is_query() for v in videos]
    for answer, ask in zip(answers, asked, strict=True):
        at = (ask.points, ask.t)
        pred[ask.video][at], called[ask.video][at] = answer.xy, answer.visible
        answered[ask.video][at] = True
        for cue, values in cues.items():
            values[ask.video][at] = getattr(answer.evidence, cue)
    for video, done in zip(videos, answered, strict=True):
        # A frame that nobody was asked for would pass for the corner of the image.
        assert torch.equal(done, video.evaluated() | video.is_query()), f"{video.name} has gaps"
    return pred, called, Evidence(**{cue: flat(values, videos) for cue, values in cues.items()})


def _tells(answer: Answer, cue: str) -> bool:
    return getattr(answer.evidence, cue) is not None


def flat(values: Sequence[Tensor], videos: Sequence[VideoTracks]) -> Tensor:
    """What (points, time) tensors, one a video, hold in the evaluated frames."""
    return torch.cat([value[v.evaluated()] for value, v in zip(values, videos, strict=True)])


def by_video(
    called: Bool[Tensor, " n"], videos: Sequence[VideoTracks]
) -> list[Bool[Tensor, "points time"]]:
    """Inverse of ``flat`` for visibility; a point is visible in the frame that it is queried in."""
    filled = [video.is_query() for video in videos]
    sizes = [int(video.evaluated().sum()) for video in videos]
    for one, video, own in zip(filled, videos, called.split(sizes), strict=True):
        one[video.evaluated()] = own
    return filled
