"""TAP-Vid with two frames at a time: the query's frame and every later one, each on its own."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from data.coords import rescale_points
from data.readers.tapvid import TrackFile
from data.types import PointPairs, TrackSet
from tracing.benchmarks.base import Row, Tracer, evaluate, perfect_answer
from tracing.benchmarks.evaluation import Pictures, on_device
from tracing.benchmarks.flow import at_sizes, resized_pairs
from tracing.benchmarks.track_occlusion import Judge, OcclusionRule, Split
from tracing.benchmarks.track_rows import TrackRow, track_rows
from tracing.benchmarks.track_videos import Asked, Recorded, VideoTracks
from tracing.config import TracerConfig
from tracing.metrics import functional
from tracing.occlusion import check_occlusion


def first_pairs(track: TrackSet) -> Iterator[PointPairs]:
    """Query mode "first": a point is asked for in its first visible frame, then in every later one.

    One pair of frames at a time, at the size as stored, with all the points that are queried in its
    frame 0; frame 0 goes up, then frame 1. Points that are never visible are dropped. A query that
    is annotated outside its frame is asked at the nearest point of the border.
    """
    return (_pair(track, asked) for asked in _asked(track.visible))


def _asked(visible: Bool[Tensor, "points time"], video: int = 0) -> Iterator[Asked]:
    query_frame, ever = visible.int().argmax(1), visible.any(1)
    for q in query_frame[ever].unique().tolist():
        own = (ever & (query_frame == q)).nonzero()[:, 0]
        for t in range(q + 1, visible.shape[1]):
            yield Asked(video, q, t, own)


def _pair(track: TrackSet, asked: Asked) -> PointPairs:
    own, q, t = asked.points, asked.q, asked.t
    border = track.points.new_tensor([track.frames.shape[3], track.frames.shape[2]])
    return PointPairs(
        frame0=track.frames[q][None].float() / 255,
        frame1=track.frames[t][None].float() / 255,
        points=track.points[own, q][None].clamp_min(0).minimum(border),
        target=track.points[own, t][None],
        visible=track.visible[own, t][None],
        valid=torch.ones(1, len(own), dtype=torch.bool),
        name=f"{track.name}/{q:03d}-{t:03d}",
    )


class TrackParts(Sequence[PointPairs]):
    """One part for each pair of frames; the frames of one video at a time are kept in memory.

    Args:
        every: of each video only frames 0, every, 2 * every, ... are there.
        points_per_video: at most so many, drawn from those ever visible; None for all.
    """

    def __init__(
        self,
        file: TrackFile,
        num_videos: int | None,
        points_per_video: int | None,
        every: int,
        seed: int,
        device: str,
    ) -> None:
        self.file, self.every, self.device = file, every, device
        self.names = file.names[:num_videos]
        self.kept: list[Tensor] = []  # indices of the points that take part, by video
        self.videos: list[VideoTracks] = []
        self.asked: list[Asked] = []
        for index, name in enumerate(self.names):
            target, visible = self._thinned(index, functional.BENCHMARK_HW)
            kept = _chosen(visible, points_per_video, f"points/{seed}/{name}")
            target, visible = target[kept], visible[kept]
            self.kept.append(kept)
            self.videos.append(VideoTracks(target, visible, visible.int().argmax(1), name))
            self.asked += _asked(visible, index)
        self._open: tuple[int, TrackSet] | None = None

    def _thinned(self, index: int, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        points, visible = self.file.tracks(index, hw)
        return points[:, :: self.every], visible[:, :: self.every]

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> PointPairs:
        asked = self.asked[index]
        if self._open is None or self._open[0] != asked.video:
            self._open = (asked.video, self._read(asked.video))
        return on_device(_pair(self._open[1], asked), self.device)

    def _read(self, video: int) -> TrackSet:
        stored, kept = self.file[video], self.kept[video]
        points, visible = self._thinned(video, (stored.frames.shape[2], stored.frames.shape[3]))
        return TrackSet(points[kept], visible[kept], stored.frames[:: self.every], stored.name)


def _chosen(visible: Bool[Tensor, "points time"], at_most: int | None, salt: str) -> Tensor:
    """Indices of the points that are ever visible, or of a seeded draw from them, in order."""
    ever = visible.any(1).nonzero()[:, 0].tolist()
    if at_most is not None and at_most < len(ever):
        ever = sorted(random.Random(salt).sample(ever, at_most))
    return torch.tensor(ever, dtype=torch.int64)


class TapVid:
    """Task: the points of a TAP-Vid pickle in query mode "first", all scores at 256x256.

    Args:
        path: a .pkl as ``data.readers.tapvid`` describes it.
        occlusion: how kl and rgb tell hidden points: ``cross_fit``, each half of the videos judged
            by the threshold that is best for the other half, or ``fixed``, by the tracer's own.
        cues: what tells them, as ``tracing.occlusion`` describes it; tracers give these cues.
        calibrate_on: another pickle whose answers choose the thresholds in place of cross-fitting;
            the limits on videos, points and frames hold there, too.
        input_px: side of the square that models (and DIS once more) are given; None: only
            tracers that take any size take part.
    """

    name = "tapvid"

    def __init__(
        self,
        path: str | Path | None,
        seed: int,
        num_videos: int | None = None,
        points_per_video: int | None = None,
        every: int = 1,
        occlusion: str = "cross_fit",
        cues: str = "peak_kl",
        calibrate_on: str | Path | None = None,
        input_px: int | None = None,
        device: str = "cpu",
    ) -> None:
        if path is None:
            raise ValueError("task=tapvid needs a file of tracks: pass task.path=FILE.pkl.")
        limits = {"num_videos": num_videos, "points_per_video": points_per_video, "every": every}
        for key, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"task.{key}={limit} leaves nothing; pass a number from 1 up.")
        if occlusion not in get_args(OcclusionRule):
            raise ValueError(f"task.occlusion={occlusion!r} is not known; use cross_fit or fixed.")
        check_occlusion(cues)
        self.path, self.occlusion, self.cues, self.limits = Path(path), occlusion, cues, limits
        file = TrackFile(path)
        self.parts = TrackParts(file, num_videos, points_per_video, every, seed, device)
        if not any((v.visible & v.evaluated()).any() for v in self.parts.videos):
            raise ValueError(
                f"{path} holds no point that is visible in two of the frames asked for (videos: "
                f"{len(self.parts.videos)}, task.every={every}); there is nothing to score."
            )
        self.input_hw = None if input_px is None else (input_px, input_px)
        self.split: TrackParts | None = None
        if calibrate_on is not None:
            self._check_split(Path(calibrate_on))
            limited = num_videos, points_per_video, every, seed, device
            self.split = TrackParts(TrackFile(calibrate_on), *limited)

    def _check_split(self, path: Path) -> None:
        if self.occlusion == "fixed":
            raise ValueError(
                f"task.calibrate_on={path} chooses thresholds but task.occlusion=fixed keeps the "
                "tracer's own; leave out one of the two."
            )
        if path.resolve() == self.path.resolve():
            raise ValueError(
                f"task.calibrate_on={path} is the file that is scored; choose thresholds on other "
                "videos, or leave it out: task.occlusion=cross_fit halves this file."
            )

    def adapt(self, tracer: Tracer) -> list[Tracer]:
        return at_sizes(tracer, self.input_hw)

    def score(
        self,
        tracers: Sequence[Tracer],
        parts: Iterable[PointPairs],
        seed: int,
        *,
        patch_px: int,
        paired_with: str | None = None,
    ) -> list[TrackRow]:
        """One row for each tracer, scored video by video.

        Raises:
            ValueError: as ``evaluate`` and ``track_rows``.
        """
        recorded = [Recorded(tracer) for tracer in tracers]
        rows = evaluate(recorded, parts, seed, patch_px=patch_px)
        input_px = self.input_hw[0] if self.input_hw else functional.BENCHMARK_HW[0]
        hit_px = patch_px * functional.BENCHMARK_HW[0] / input_px
        truth = self.parts.videos, self.parts.asked
        judges = [Judge(self.occlusion, self.cues, self._answered(t, seed)) for t in tracers]
        return track_rows(rows, recorded, *truth, judges, hit_px, seed, paired_with)

    def _answered(self, tracer: Tracer, seed: int) -> Split | None:
        """The other file as this tracer answers it; None without one, or if there are no cues."""
        if self.split is None:
            return None
        recorded = Recorded(tracer)
        for number, part in enumerate(self.split):
            recorded(part.frame0, part.frame1, part.points, seed=seed + number)
            if not recorded.answers[0].evidence.cues:
                return None
        name = self.split.file.path.name
        return Split.of(recorded.answers, self.split.videos, self.split.asked, name)

    def floor(self, patch_px: int, cfg: TracerConfig, map_px: int) -> float:
        """Mean over videos of the EPE of a perfect detector at the input size, px at 256x256."""
        hw = self.input_hw or functional.BENCHMARK_HW
        frames = torch.zeros(1).expand(1, 3, *hw)  # only their size matters
        epe = []
        for video in self.parts.videos:
            query = video.target[video.is_query()][:, None].expand(video.target.shape)
            points, target = (
                rescale_points(each.flatten(0, 1)[None], functional.BENCHMARK_HW, hw)
                for each in (query, video.target)
            )
            seen = (video.visible & video.evaluated()).flatten()[None]
            pairs = PointPairs(frames, frames, points, target, seen, seen, video.name)
            answer = perfect_answer(pairs, patch_px, cfg.placement, map_px)
            answer = rescale_points(answer, hw, functional.BENCHMARK_HW)[0]
            epe.append(functional.endpoint_error(answer, video.target.flatten(0, 1), seen[0]))
        return torch.stack(epe).nanmean().item()

    def about(self) -> dict:
        videos = self.parts.videos
        scorable = [bool((v.visible & v.evaluated()).any()) for v in videos]
        about = {
            "path": str(self.path),
            "query_mode": "first: from a point's first visible frame to every later one, two "
            "frames at a time",
            "ad": "as published, query frame included; there the answer is the query, error 0",
            "averaging": "each video by itself, then the mean over videos",
            "coverage": 1.0,  # ``track_rows`` refuses gaps
            "num_videos": len(videos),
            "num_unscorable": scorable.count(False),
            "num_pairs": len(self.parts),
            "num_tracks": sum(len(video.target) for video in videos),
            "occlusion": self._told(),
            "resolution_hw": list(functional.BENCHMARK_HW),
        }
        if part := self._part():
            about["part"] = part
        return about | ({"input_hw": list(self.input_hw)} if self.input_hw else {})

    def _told(self) -> str:
        how = self.occlusion if self.split is None else f"calibrated on {self.split.file.path.name}"
        return f"{how} by {self.cues} (kl, rgb); baselines call everything visible"

    def _part(self) -> str:
        """What of the file takes part, where that is not all of it."""
        limits, said = self.limits, []
        if len(self.parts.videos) < len(self.parts.file):
            said.append(f"{len(self.parts.videos)} of {len(self.parts.file)} videos")
        if limits["points_per_video"] is not None:
            said.append(f"at most {limits['points_per_video']} points of a video")
        if limits["every"] > 1:
            said.append(f"one of every {limits['every']} frames")
        return ", ".join(said)

    def pairs_table(self, rows: Sequence[Row]) -> list[dict]:
        """Nothing: the table goes video by video."""
        return []

    def pictures(self, rows: Sequence[Row]) -> Pictures:
        """No others than every task has."""
        return {}

    def for_model(self) -> Iterator[PointPairs]:
        """One part of each video as a model sees it, half way through the video."""
        for video in range(len(self.parts.videos)):
            own = [index for index, asked in enumerate(self.parts.asked) if asked.video == video]
            if own and self.input_hw:
                yield resized_pairs(self.parts[own[len(own) // 2]], self.input_hw)
