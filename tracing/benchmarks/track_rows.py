"""From two-frame answers to the scores of whole videos: one row a tracer, as TAP-Vid prints them.

Everything is in px with frames stretched to 256x256: first a score of each video, then the
unweighted mean over videos.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from tracing.benchmarks.base import Row
from tracing.benchmarks.track_occlusion import Judge
from tracing.benchmarks.track_videos import Joined, Recorded, VideoTracks, joined
from tracing.metrics import functional
from tracing.metrics.bootstrap import bootstrap_mean
from tracing.metrics.tracks import COUNT, OCCLUSION_COUNTS, item_scores, mean_over_videos
from tracing.occlusion import Occlusion

MIN_VIDEOS = 10  # an interval over fewer would say more than they know
SPREAD = ("epe", "ad", "delta_avg", "oa", "aj")  # scores that have an interval over videos


@dataclass(frozen=True, kw_only=True)
class TrackRow(Row):
    """One tracer's scores over videos: means over videos in px at 256x256.

    ``points``, ``xy``, ``target`` and ``errors`` are as in ``Row``: in px of the frames as stored.
    """

    epe_interval: tuple[float, float] | None  # over videos; None: fewer than MIN_VIDEOS
    intervals: dict[str, tuple[float, float]] | None  # of the scores of ``SPREAD``, likewise
    scores: dict[str, float]  # ``mean_over_videos``
    names: list[str]  # of the videos
    videos: list[dict[str, float]]  # ``item_scores`` of each
    occlusion: dict  # the rule that calls a point visible, and its thresholds

    def as_dict(self) -> dict:
        """The row as ``tracing.results_schema`` has it; a score that does not exist is null."""
        kept = (
            "name",
            "epe_interval",
            "intervals",
            "hit",
            "ratio_to_zero",
            "target_revealed_share",
            "seconds",
        )
        kept += ("flips", "kept_hidden_share", "paired_vs", "occlusion")
        counts = (COUNT, *OCCLUSION_COUNTS, "num_videos", "num_unscorable")  # see ``dataset``
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
    judges: Sequence[Judge],
    hit_share_px: float,
    seed: int,
    paired_with: str | None = None,
) -> list[TrackRow]:
    """The rows of ``evaluate`` with the scores of whole videos in place of those of pooled points.

    Args:
        judges: who tells hidden points, by tracer.
        hit_share_px: side of the square of ``hit``, in px at 256x256.

    Raises:
        ValueError: as ``Judge.called``.
    """
    made = [
        _track_row(row, joined(tracer.answers, videos), videos, judge, hit_share_px, seed)
        for row, tracer, judge in zip(rows, recorded, judges, strict=True)
    ]
    still = _zero_motion_epe(videos)
    other = next((row for row in made if row.name == paired_with), None)
    return [_related(row, still, other, seed) for row in made]


def _track_row(
    row: Row,
    answers: Joined,
    videos: Sequence[VideoTracks],
    judge: Judge,
    hit_share_px: float,
    seed: int,
) -> TrackRow:
    called, occlusion = judge.called(answers.called, answers.evidence, videos)
    each = [
        _video_scores(*own) | {"hit": _hit(own[0], own[2], hit_share_px)}
        for own in zip(answers.pred, called, videos, strict=True)
    ]
    if judge.how != "fixed" and len(answers.evidence.cues) > 1:
        occlusion["by_cues"] = _by_cues(judge, answers, videos)
    scores = mean_over_videos(each)
    spread = _intervals(each, seed)
    own = {
        "epe": scores["epe"],
        "epe_interval": spread["epe"] if spread else None,
        "intervals": spread,
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


def _intervals(
    videos: Sequence[dict[str, float]], seed: int
) -> dict[str, tuple[float, float]] | None:
    """95 % intervals of the means over videos, all from the same draws; None: too few videos."""
    scorable = [video for video in videos if video[COUNT]]
    if len(scorable) < MIN_VIDEOS:
        return None
    values = ([video[key] for video in scorable] for key in SPREAD)
    spread = [bootstrap_mean(torch.tensor(own, dtype=torch.float64), seed) for own in values]
    return {key: (own.low, own.high) for key, own in zip(SPREAD, spread, strict=True)}


def _video_scores(
    pred: Float[Tensor, "items 2"], called: Bool[Tensor, " items"], video: VideoTracks
) -> dict[str, float]:
    """``item_scores``; in the query frames that count in AD the answer is the query, error 0."""
    errors = functional.distances(pred, video.target)
    return item_scores(errors, called, video.visible, errors.new_zeros(video.ad_zeros))


def _by_cues(judge: Judge, answers: Joined, videos: Sequence[VideoTracks]) -> dict[str, dict]:
    """OA and AJ of every rule that the evidence suffices for, each with its own thresholds."""
    found = {}
    for rule in get_args(Occlusion):
        called, told = replace(judge, cues=rule).called(answers.called, answers.evidence, videos)
        each = [_video_scores(*own) for own in zip(answers.pred, called, videos, strict=True)]
        mean = mean_over_videos(each)
        chosen = {key: told[key] for key in ("thresholds", "return_px") if key in told}
        found[rule] = {"oa": mean["oa"], "aj": mean["aj"]} | chosen
    return found


def _hit(pred: Float[Tensor, "items 2"], video: VideoTracks, side_px: float) -> float:
    unit = 2 / side_px  # a square of 2 x 2 in these units
    return functional.hit_share(pred * unit, video.target * unit, video.visible, 2).item()


def _zero_motion_epe(videos: Sequence[VideoTracks]) -> float:
    """Mean over videos of the EPE of answering with the query."""
    epe: list[Float64[Tensor, ""]] = [
        functional.endpoint_error(video.start_xy, video.target, video.visible) for video in videos
    ]
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
