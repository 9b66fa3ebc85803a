"""From two-frame answers to the scores of whole videos: one row a tracer, as TAP-Vid prints them.

Everything is in px with frames stretched to 256x256: first a score of each video, then the
unweighted mean over videos.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import torch
from torch import Tensor

from tracing.benchmarks.base import Row
from tracing.benchmarks.track_occlusion import Judge
from tracing.benchmarks.track_videos import Asked, Recorded, VideoTracks, assembled
from tracing.metrics import functional
from tracing.metrics.bootstrap import bootstrap_mean
from tracing.metrics.tracks import COUNT, mean_over_videos, video_scores
from tracing.occlusion import Evidence, Occlusion

MIN_VIDEOS = 10  # an interval over fewer would say more than they know


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
        kept += ("flips", "kept_hidden_share", "paired_vs", "occlusion")
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
        _track_row(row, tracer, videos, asked, judge, hit_share_px, seed)
        for row, tracer, judge in zip(rows, recorded, judges, strict=True)
    ]
    still = _zero_motion_epe(videos)
    other = next((row for row in made if row.name == paired_with), None)
    return [_related(row, still, other, seed) for row in made]


def _track_row(
    row: Row,
    tracer: Recorded,
    videos: Sequence[VideoTracks],
    asked: Sequence[Asked],
    judge: Judge,
    hit_share_px: float,
    seed: int,
) -> TrackRow:
    pred, said, evidence = assembled(tracer.answers, videos, asked)
    called, occlusion = judge.called(said, evidence, videos)
    each = [
        video_scores(p, v.target, c, v.visible, v.is_query()) | {"hit": _hit(p, v, hit_share_px)}
        for p, c, v in zip(pred, called, videos, strict=True)
    ]
    if judge.how != "fixed" and len(evidence.cues) > 1:
        occlusion["by_cues"] = _by_cues(judge, pred, said, evidence, videos)
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


def _by_cues(
    judge: Judge,
    pred: Sequence[Tensor],
    said: Sequence[Tensor],
    evidence: Evidence,
    videos: Sequence[VideoTracks],
) -> dict[str, dict]:
    """OA and AJ of every rule that the evidence suffices for, each with its own thresholds."""
    found = {}
    for rule in get_args(Occlusion):
        called, told = replace(judge, cues=rule).called(said, evidence, videos)
        mean = mean_over_videos(
            [
                video_scores(p, v.target, c, v.visible, v.is_query())
                for p, c, v in zip(pred, called, videos, strict=True)
            ]
        )
        chosen = {key: told[key] for key in ("thresholds", "return_px") if key in told}
        found[rule] = {"oa": mean["oa"], "aj": mean["aj"]} | chosen
    return found


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
