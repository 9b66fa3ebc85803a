"""From two-frame answers to the scores of whole videos: one row a tracer, as TAP-Vid prints them.

Everything is in px with frames stretched to 256x256: first a score of each video, then the
unweighted mean over videos.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.coords import rescale_points
from tracing.benchmarks.base import Row, Tracer
from tracing.config import Traces
from tracing.metrics import functional
from tracing.metrics.bootstrap import bootstrap_mean
from tracing.metrics.tracks import COUNT, mean_over_videos, video_scores
from tracing.occlusion import cross_fitted_visible

MIN_VIDEOS = 10  # an interval over fewer would say more than they know
OcclusionRule = Literal["cross_fit", "fixed"]


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


class Recorded:
    """A tracer that keeps its answers, one pair of frames each, in px at 256x256."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer, self.name, self.needs_model = tracer, tracer.name, tracer.needs_model
        if hasattr(tracer, "input_hw"):
            self.input_hw = tracer.input_hw
        self.answers: list[tuple[Tensor, Tensor, Tensor | None]] = []  # xy, visible, peak

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
        peak = None if traces.peak_kl is None else traces.peak_kl[0].cpu()
        self.answers.append((xy, traces.visible[0].cpu(), peak))
        return traces


@dataclass(frozen=True, kw_only=True)
class TrackRow(Row):
    """One tracer's scores over videos: means over videos in px at 256x256.

    ``points``, ``xy``, ``target`` and ``errors`` are as in ``Row``: in px of the frames as stored.
    """

    epe_interval: tuple[float, float] | None  # over videos; None: fewer than MIN_VIDEOS
    scores: dict[str, float]  # ``mean_over_videos``
    names: list[str]  # of the videos
    videos: list[dict[str, float]]  # ``video_scores`` of each
    occlusion: dict  # the rule that calls a point visible, and its thresholds

    def as_dict(self) -> dict:
        """The row as ``tracing.report`` describes it; a score that does not exist is null."""
        kept = ("name", "epe_interval", "hit", "ratio_to_zero", "target_revealed_share", "seconds")
        kept += ("paired_vs", "occlusion")
        counts = (COUNT, "num_videos", "num_unscorable")  # the same in every row: see ``dataset``
        means = {key: value for key, value in self.scores.items() if key not in counts}
        return finite({key: getattr(self, key) for key in kept} | means)


def finite(value: Any) -> Any:
    """Plain data with null where a number is not finite, and lists for tuples."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def track_rows(
    rows: Sequence[Row],
    recorded: Sequence[Recorded],
    videos: Sequence[VideoTracks],
    asked: Sequence[Asked],
    rule: OcclusionRule,
    hit_share_px: float,
    seed: int,
    paired_with: str | None = None,
) -> list[TrackRow]:
    """The rows of ``evaluate`` with the scores of whole videos in place of those of pooled points.

    Args:
        hit_share_px: side of the square of ``hit``, in px at 256x256.

    Raises:
        ValueError: there is too little to cross-fit.
    """
    made = [
        _track_row(row, tracer, videos, asked, rule, hit_share_px, seed)
        for row, tracer in zip(rows, recorded, strict=True)
    ]
    still = _zero_motion_epe(videos)
    other = next((row for row in made if row.name == paired_with), None)
    return [_related(row, still, other, seed) for row in made]


def _track_row(
    row: Row,
    tracer: Recorded,
    videos: Sequence[VideoTracks],
    asked: Sequence[Asked],
    rule: OcclusionRule,
    hit_share_px: float,
    seed: int,
) -> TrackRow:
    pred, called, peak = _assembled(tracer, videos, asked)
    occlusion = {"rule": "everything is called visible"}
    if peak is not None and rule == "fixed":
        occlusion = {"rule": "visible where the peak reaches tracer.cfg.occlusion_threshold"}
    elif peak is not None:
        called, occlusion = _cross_fitted(peak, videos)
    each = [
        video_scores(p, v.target, c, v.visible, v.is_query()) | {"hit": _hit(p, v, hit_share_px)}
        for p, c, v in zip(pred, called, videos, strict=True)
    ]
    scores = mean_over_videos(each)
    epe = torch.tensor([s["epe"] for s in each if s[COUNT]], dtype=torch.float64)
    spread = bootstrap_mean(epe, seed) if len(epe) >= MIN_VIDEOS else None
    own = {
        "epe": scores["epe"],
        "epe_interval": (spread.low, spread.high) if spread else None,
        "median": scores["median"],
        "delta_avg": scores["delta_avg"],
        "hit": scores.pop("hit"),
    }
    own |= {
        "scores": scores,
        "names": [v.name for v in videos],
        "videos": each,
        "occlusion": occlusion,
    }
    return TrackRow(**{field.name: getattr(row, field.name) for field in fields(Row)} | own)


def _assembled(
    tracer: Recorded, videos: Sequence[VideoTracks], asked: Sequence[Asked]
) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
    """Positions, visibility as the tracer says, and peaks; each (points, time[, 2]) by video."""
    pred = [torch.where(v.is_query()[..., None], v.target, 0.0) for v in videos]
    called = [v.is_query() for v in videos]
    peak = [torch.zeros(v.visible.shape) for v in videos]
    answered = [v.is_query() for v in videos]
    for (xy, visible, height), ask in zip(tracer.answers, asked, strict=True):
        at = (ask.points, ask.t)
        pred[ask.video][at], called[ask.video][at] = xy, visible
        answered[ask.video][at] = True
        if height is not None:
            peak[ask.video][at] = height.float()
    for video, done in zip(videos, answered, strict=True):
        # A frame that nobody was asked for would pass for the corner of the image.
        assert torch.equal(done, video.evaluated() | video.is_query()), f"{video.name} has gaps"
    return pred, called, peak if tracer.answers[0][2] is not None else None


def _cross_fitted(
    peak: Sequence[Tensor], videos: Sequence[VideoTracks]
) -> tuple[list[Tensor], dict]:
    """Who is called visible, by video, each half of the videos judged by the other's threshold."""
    halves, split = halved(videos)
    where = [video.evaluated() for video in videos]

    def flat(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([value[inside] for value, inside in zip(values, where, strict=True)])

    fold = [half[:, None].expand(v.visible.shape) for half, v in zip(halves, videos, strict=True)]
    found, thresholds = cross_fitted_visible(
        flat(peak), flat([video.visible for video in videos]), flat(fold)
    )
    called = [video.is_query() for video in videos]
    for one, inside, own in zip(
        called, where, found.split([int(inside.sum()) for inside in where]), strict=True
    ):
        one[inside] = own
    rule = {"rule": f"visible where the peak reaches a threshold, cross-fitted ({split})"}
    return called, rule | {"split": split, "thresholds": list(thresholds)}


def halved(videos: Sequence[VideoTracks]) -> tuple[list[Bool[Tensor, " points"]], str]:
    """Which points belong to the second half, by video, and how they were split in two.

    Every second of the videos that have frames to evaluate; of a single one every second point.

    Raises:
        ValueError: there is one point only.
    """
    having = [index for index, video in enumerate(videos) if video.evaluated().any()]
    if len(having) > 1:
        second = set(having[1::2])
        halves = [
            torch.full((len(video.target),), index in second) for index, video in enumerate(videos)
        ]
        return halves, "every second video"
    live = [video.evaluated().any(1) for video in videos]
    if sum(int(points.sum()) for points in live) < 2:
        raise ValueError(
            "task.occlusion=cross_fit needs two videos or two points, got a single point; pass "
            "task.occlusion=fixed."
        )
    return [points & (points.cumsum(0) % 2 == 0) for points in live], "every second point"


def _hit(pred: Tensor, video: VideoTracks, side_px: float) -> float:
    seen = video.visible & video.evaluated()
    unit = 2 / side_px  # a square of 2 x 2 in these units
    return functional.hit_share(pred * unit, video.target * unit, seen, 2).item()


def _zero_motion_epe(videos: Sequence[VideoTracks]) -> float:
    """Mean over videos of the EPE of answering with the query."""
    epe = []
    for video in videos:
        query = video.target[video.is_query()][:, None].expand(video.target.shape)
        seen = video.visible & video.evaluated()
        epe.append(functional.endpoint_error(query, video.target, seen))
    return torch.stack(epe).nanmean().item()


def _related(row: TrackRow, still: float, other: TrackRow | None, seed: int) -> TrackRow:
    """The row with its EPE beside that of zero motion and of the row it is compared with."""
    paired = None
    if other is not None and other is not row:
        both = zip(row.videos, other.videos, strict=True)
        gaps = [own["epe"] - their["epe"] for own, their in both if own[COUNT]]
        spread = bootstrap_mean(torch.tensor(gaps, dtype=torch.float64), seed)
        enough = len(gaps) >= MIN_VIDEOS
        paired = {
            "name": other.name,
            "difference": spread.mean,
            "interval": [spread.low, spread.high] if enough else None,
            "excludes_zero": spread.excludes_zero if enough else None,
        }
    ratio = row.epe / still if still else float("nan")
    return replace(row, ratio_to_zero=ratio, paired_vs=paired)
