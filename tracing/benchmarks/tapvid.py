"""Task: point tracks, two frames at a time, each pair of frames on its own; scores at 256x256."""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import get_args

import torch

from data.coords import rescale_points
from data.readers.tapvid import TrackFile
from data.readers.track_sets import RECORDS, files_sha256, open_tracks
from data.types import PointPairs
from tracing.benchmarks.base import Row, Tracer, evaluate, perfect_answer
from tracing.benchmarks.evaluation import Pictures
from tracing.benchmarks.flow import at_sizes, resized_pairs
from tracing.benchmarks.track_choice import Choice
from tracing.benchmarks.track_occlusion import Judge, OcclusionRule, Split
from tracing.benchmarks.track_parts import TrackParts
from tracing.benchmarks.track_queries import AD_SAID, SAID, SAID_GIVEN
from tracing.benchmarks.track_rows import TrackRow, track_rows
from tracing.benchmarks.track_subset import fingerprint
from tracing.benchmarks.track_videos import Recorded
from tracing.config import TracerConfig
from tracing.metrics import functional
from tracing.occlusion import check_occlusion


class TapVid:
    """Task: the points of TAP-Vid and of sets like it, all scores at 256x256.

    Args:
        path: the file, or the folder of files, of the set.
        dataset: ``file`` (any pickle as ``data.readers.tapvid`` describes it) or a published set,
            checked to be whole; see ``data.readers.track_sets``.
        query_mode: ``first``, ``strided`` or ``cfg``; see ``track_queries``.
        share: of all (query, target frame) items, a seeded draw by frame gap; scores are of these.
        num_queries: as many items, drawn so.
        pairs: a ``dataset.json`` of ZWM; exactly its items are asked.
        occlusion: how kl and rgb tell hidden points: ``cross_fit``, each half of the videos judged
            by the threshold that is best for the other half, or ``fixed``, by the tracer's own.
        cues: what tells them, as ``tracing.occlusion`` describes it; tracers give these cues.
        calibrate_on: another pickle whose answers choose the thresholds in place of cross-fitting;
            the limits on videos, points and frames, the query mode and the share hold there, too.
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
        dataset: str | None = None,
        query_mode: str = "first",
        share: float | None = None,
        num_queries: int | None = None,
        pairs: str | Path | None = None,
    ) -> None:
        limits = {"num_videos": num_videos, "points_per_video": points_per_video, "every": every}
        for key, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"task.{key}={limit} leaves nothing; pass a number from 1 up.")
        if occlusion not in get_args(OcclusionRule):
            raise ValueError(f"task.occlusion={occlusion!r} is not known; use cross_fit or fixed.")
        check_occlusion(cues)
        choice = Choice(query_mode=query_mode, share=share, num_queries=num_queries, pairs=pairs)
        self._check_limits(choice, limits)
        self.dataset = dataset or "file"
        self.occlusion, self.cues, self.limits = occlusion, cues, limits
        self.seed, self.choice = seed, choice
        file = open_tracks(self.dataset, path)
        self.path = file.path
        limited = num_videos, points_per_video, every, seed, device
        self.parts = TrackParts(file, *limited, choice)
        if not any(video.visible.any() for video in self.parts.videos):
            raise ValueError(
                f"{path} holds no point that is visible in two of the frames asked for (videos: "
                f"{len(self.parts.videos)}, task.every={every}, task.query_mode={query_mode}); "
                "there is nothing to score."
            )
        self.input_hw = None if input_px is None else (input_px, input_px)
        self.split: TrackParts | None = None
        if calibrate_on is not None:
            self._check_split(Path(calibrate_on))
            alike = Choice(query_mode=query_mode, share=share)
            self.split = TrackParts(TrackFile(calibrate_on), *limited, alike)

    @staticmethod
    def _check_limits(choice: Choice, limits: dict[str, int | None]) -> None:
        """Raise ValueError if a limit would change what the query mode or the list means."""
        whole = {"num_videos": None, "points_per_video": None, "every": 1}
        set_here = [f"task.{key}={limits[key]}" for key in whole if limits[key] != whole[key]]
        if choice.pairs is not None and set_here:
            raise ValueError(
                f"task.pairs={choice.pairs} lists what is asked, so leave out {set_here[0]}."
            )
        if choice.query_mode == "cfg" and limits["every"] != 1:
            raise ValueError(
                f"task.query_mode=cfg asks {functional.CFG_GAP} frames on, got "
                f"task.every={limits['every']}, which would make these more; leave it at 1."
            )

    def _check_split(self, path: Path) -> None:
        if self.occlusion == "fixed":
            raise ValueError(
                f"task.calibrate_on={path} chooses thresholds but task.occlusion=fixed keeps the "
                "tracer's own; leave out one of the two."
            )
        if path.resolve() in [file.resolve() for file in self.parts.file.files]:
            raise ValueError(
                f"task.calibrate_on={path} is the file that is scored; choose thresholds on other "
                "videos, or leave it out: task.occlusion=cross_fit halves this file."
            )

    def adapt(self, tracer: Tracer) -> list[Tracer]:
        return at_sizes(tracer, self.input_hw)

    def only(self, units: Sequence[str]) -> "TapVid":
        """The same task with these videos alone."""
        fewer = copy(self)
        fewer.parts = self.parts.only(units)
        return fewer

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
            ValueError: a tracer cannot go back in time where that is asked, does not answer every
                query, or answers with what is no number; as ``evaluate`` and ``track_rows``.
        """
        self._check_direction(tracers)
        recorded = [Recorded(tracer, self.parts.names_of_parts) for tracer in tracers]
        rows = evaluate(recorded, parts, seed, patch_px=patch_px)
        input_px = self.input_hw[0] if self.input_hw else functional.BENCHMARK_HW[0]
        hit_px = patch_px * functional.BENCHMARK_HW[0] / input_px
        judges = [Judge(self.occlusion, self.cues, self._answered(t, seed)) for t in tracers]
        return track_rows(rows, recorded, self.parts.videos, judges, hit_px, seed, paired_with)

    def _check_direction(self, tracers: Sequence[Tracer]) -> None:
        if not any((video.gap < 0).any() for video in self.parts.videos):
            return
        for tracer in tracers:
            if _forward_only(tracer):
                raise ValueError(
                    f"{tracer.name} traces forward in time only, but earlier frames are asked for "
                    f"(task.query_mode={self.choice.query_mode}); pass task.query_mode=first."
                )

    def _answered(self, tracer: Tracer, seed: int) -> Split | None:
        """The other file as this tracer answers it; None without one, or if there are no cues."""
        if self.split is None:
            return None
        recorded = Recorded(tracer, self.split.names_of_parts)
        for number, part in enumerate(self.split):
            recorded(part.frame0, part.frame1, part.points, seed=seed + number)
            if not recorded.answers[0].evidence.cues:
                return None
        return Split.of(recorded.answers, self.split.videos, self.split.file.path.name)

    def floor(self, patch_px: int, cfg: TracerConfig, map_px: int) -> float:
        """Mean over videos of the EPE of a perfect detector at the input size, px at 256x256."""
        hw = self.input_hw or functional.BENCHMARK_HW
        frames = torch.zeros(1).expand(1, 3, *hw)  # only their size matters
        epe = []
        for video in self.parts.videos:
            points, target = (
                rescale_points(each[None], functional.BENCHMARK_HW, hw)
                for each in (video.start_xy, video.target)
            )
            seen = video.visible[None]
            pairs = PointPairs(frames, frames, points, target, seen, seen, video.name)
            answer = perfect_answer(pairs, patch_px, cfg.placement, map_px)
            answer = rescale_points(answer, hw, functional.BENCHMARK_HW)[0]
            epe.append(functional.endpoint_error(answer, video.target, video.visible))
        return torch.stack(epe).nanmean().item()

    @cached_property
    def data_sha256(self) -> str:
        """Hash of the files that the tracks are read from."""
        if self.dataset == "kubric":
            return self.parts.file.index["sha256"]
        return files_sha256(self.parts.file.files)

    def about(self) -> dict:
        videos, mode = self.parts.videos, self.choice.query_mode
        about = {
            "path": str(self.path),
            "data_sha256": self.data_sha256,
            "query_mode": mode,
            "queries": self._asked(),
            "ad": self._ad(),
            "of1": "occluded points, counts summed over all videos",
            "averaging": "each video by itself, then the mean over videos",
            "num_videos": len(videos),
            "num_unscorable": sum(not video.visible.any() for video in videos),
            "num_pairs": len(self.parts),
            "num_tracks": sum(len(video.queries) for video in videos),
            "num_queries": sum(len(video) for video in videos),
            "occlusion": self._told(),
            "resolution_hw": list(functional.BENCHMARK_HW),
        }
        if self.dataset != "file":
            record = RECORDS[self.dataset]
            about |= {"dataset": self.dataset, "dataset_title": record.title, "page": record.page}
        if part := self._part():
            about["part"] = part
        if self.choice.is_drawn:
            about["subset_fingerprint"] = self._drawn()
        return about | ({"input_hw": list(self.input_hw)} if self.input_hw else {})

    def _asked(self) -> str:
        if self.choice.pairs is not None:
            return f"those of {Path(self.choice.pairs).name}, two frames at a time"
        said = SAID_GIVEN if self.dataset == "kubric" else SAID
        return said[self.choice.query_mode]

    def _ad(self) -> str:
        if self.choice.is_drawn:
            return "over the drawn items alone, without query frames: as epe"
        return AD_SAID["first" if self.choice.pairs is not None else self.choice.query_mode]

    def _drawn(self) -> str:
        """Fingerprint of which items take part; the same wherever the same ones do."""
        pieces = []
        for video, kept in zip(self.parts.videos, self.parts.kept, strict=True):
            start = video.queries.frame[video.query]
            rows = torch.stack([kept[video.point], start, video.frame], 1)
            pieces.append((video.name, rows.numpy()))
        return fingerprint(pieces)

    def _told(self) -> str:
        how = self.occlusion if self.split is None else f"calibrated on {self.split.file.path.name}"
        return f"{how} by {self.cues} (kl, rgb); baselines call everything visible"

    def _part(self) -> str:
        """What of the published set or the file takes part, where that is not all of it."""
        limits, file, said = self.limits, self.parts.file, []
        published = RECORDS[self.dataset].num_videos if self.dataset != "file" else None
        if published not in (None, len(file)):
            said.append(f"the set as found has {len(file)} videos, published are {published}")
        if len(self.parts.videos) < len(file):
            said.append(f"{len(self.parts.videos)} of {len(file)} videos")
        if limits["points_per_video"] is not None:
            said.append(f"at most {limits['points_per_video']} points of a video")
        if limits["every"] > 1:
            said.append(f"one of every {limits['every']} frames")
        number = sum(len(video) for video in self.parts.videos)
        if self.choice.is_drawn:
            said.append(
                f"subset of {number:,} of {self.parts.num_all:,} (query, target frame) items, "
                f"drawn by frame gap with seed {self.seed}"
            )
        if self.choice.pairs is not None:
            said.append(f"the {number:,} items of {Path(self.choice.pairs).name}")
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
            middle = self.parts.middle(video)
            if middle is not None and self.input_hw:
                yield resized_pairs(self.parts[middle], self.input_hw)


def _forward_only(tracer: Tracer | None) -> bool:
    """Whether a tracer, or the one it wraps, cannot trace to earlier frames."""
    while tracer is not None:
        if getattr(tracer, "forward_only", False):
            return True
        tracer = getattr(tracer, "tracer", None)
    return False
