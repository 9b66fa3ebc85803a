"""The job of ``data.ingest``: what one task does with its videos, and what makes the whole."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from data.encoded_video import EncodedVideo, Frames
from data.filters import SceneCuts, choose_clips, split_tail
from data.index import ShardWriter, marker_path, merge_index, write_whole
from data.inputs import Inputs
from data.tasks import FOLDER, SPLITS, Progress, TaskFolder
from data.torchcodec_video import TorchcodecFrames
from data.video import VideoFrames, printable

DECODERS = {"pyav": VideoFrames, "torchcodec": TorchcodecFrames}
SKIPPED = "skipped.json"


@dataclass(frozen=True)
class IngestJob:
    """Task t: videos t * task_videos and following, to shards ``clips-<t>-<n>.tar``.

    ``settings`` are those of ``data.ingest.IngestConfig``; satisfies ``data.tasks.Job``.
    """

    settings: dict[str, Any]
    out: Path
    found: Inputs
    strict: bool = False
    name: str = "ingest"

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.found.names

    @property
    def num_tasks(self) -> int:
        return -(-len(self.inputs) // self.settings["task_videos"])

    def run(self, task: int, progress: Progress) -> dict[str, Any]:
        """Decode, cut and encode the videos of a task; ValueError at a bad one if strict."""
        skipped: dict[str, str] = {}
        tally, folder = Counter(), TaskFolder(self)
        crashed = folder.crashed(task)
        size = self.settings["task_videos"]
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(closing(self._writer(split, task))) for split in SPLITS
            }
            for number in range(task * size, min((task + 1) * size, len(self.inputs))):
                progress.begin(number)
                name = self.inputs[number]
                try:
                    if str(number) in crashed:
                        raise ValueError(
                            f"{printable(self.found.path(number))} crashed the decoder "
                            f"({crashed[str(number)]})."
                        )
                    reason = self._video(number, writers, tally, progress)
                except ValueError as error:
                    if self.strict:
                        raise
                    reason = str(error)
                if reason:
                    skipped[name] = reason
                progress.add(inputs=1)
            written = {split: writer.finish(index=False) for split, writer in writers.items()}
        for split in SPLITS:
            _drop_extra_shards(self.out / split, self._prefix(task), len(writers[split].shards))
        shards = {split: [shard.name for shard in writers[split].shards] for split in SPLITS}
        return {"clips": written, "shards": shards, "skipped": skipped, **tally}

    def finish(self, markers: list[dict[str, Any]]) -> dict[str, Any]:
        """Index the shards of all tasks.

        Raises:
            ValueError: there is not one clip; all that was written is deleted.
        """
        skipped = {name: why for marker in markers for name, why in marker["skipped"].items()}
        clips = {split: sum(marker["clips"][split] for marker in markers) for split in SPLITS}
        if not sum(clips.values()):
            TaskFolder(self).discard()
            first = next(iter(skipped.values()))
            raise ValueError(
                f"no clip was written: each of {len(self.inputs)} videos was skipped (the first: "
                f"{first.rstrip('.')}); pass videos that have one."
            )
        for split in SPLITS:
            merge_index(self.out / split, [n for m in markers for n in m["shards"][split]])
        content = json.dumps(skipped, indent=1, sort_keys=True)
        write_whole(self.out / SKIPPED, content.encode())
        counts = {
            name: sum(m.get(name, 0) for m in markers) for name in ("frames", "static", "cut")
        }
        return {"clips": clips, "num_skipped": len(skipped), **counts}

    def read_skipped(self) -> dict[str, str]:
        """The reasons of all videos that were left out, by name."""
        return json.loads((self.out / SKIPPED).read_text())

    def _writer(self, split: str, task: int) -> ShardWriter:
        s = self.settings
        return ShardWriter(
            self.out / split,
            s["shard_clips"],
            s["size"],
            s["clip_frames"],
            s,
            prefix=self._prefix(task),
        )

    def _prefix(self, task: int) -> str:
        return f"clips-{task:06d}"

    def _video(
        self, number: int, writers: dict[str, ShardWriter], tally: Counter, progress: Progress
    ) -> str:
        """Write one video's clips; why there are none, or ""."""
        s, path = self.settings, self.found.path(number)
        frames: Frames = DECODERS[s["decoder"]](path, s["size"], fps=s["fps"], threads=1)
        scenes = SceneCuts(s["scene_threshold"]) if s["scenes"] else None
        with EncodedVideo(
            frames,
            s["format"],
            scenes,
            with_motion=s["min_motion"] > 0,
            scratch=self.out / FOLDER,
            count=lambda: progress.add(frames=1),
        ) as video:
            if len(video) < s["clip_frames"]:
                raise ValueError(
                    f"{printable(path)} has {len(video)} frames, fewer than clip_frames="
                    f"{s['clip_frames']}."
                )
            stride = s["stride"] or s["clip_frames"]
            clips = choose_clips(
                len(video), s["clip_frames"], stride, video.cuts, video.motion, s["min_motion"]
            )
            tally.update(frames=len(video), static=clips.static, cut=clips.cut)
            if not clips.starts:
                return (
                    f"{printable(path)} has no clip left: {clips.cut} span a cut or a pause, "
                    f"{clips.static} move less than min_motion={s['min_motion']:g}."
                )
            parts = dict(zip(SPLITS, self._split(number, clips.starts), strict=True))
            sha256 = _sha256(path)
            for split, starts in parts.items():
                for sample in self._samples(number, video, starts, sha256):
                    writers[split].write(sample)
                    progress.add(clips=1)
        return ""

    def _split(self, number: int, starts: tuple[int, ...]) -> tuple[list[int], list[int]]:
        if self.settings["split"] == "source":
            is_val = number in self._validation_videos
            return ([], list(starts)) if is_val else (list(starts), [])
        return split_tail(starts, self.settings["clip_frames"], self.settings["val_fraction"])

    @cached_property
    def _validation_videos(self) -> frozenset[int]:
        count, share = len(self.inputs), self.settings["val_fraction"]
        if not share or count < 2:
            return frozenset()
        num_val = min(max(1, round(share * count)), count - 1)
        return frozenset(Random(self.settings["seed"]).sample(range(count), num_val))

    def _samples(
        self, number: int, video: EncodedVideo, starts: list[int], sha256: str
    ) -> Iterator[dict]:
        """The clips as webdataset samples."""
        length, suffix = self.settings["clip_frames"], self.settings["format"]
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(self.inputs[number]).stem)[:48]  # no dot in keys
        for start in starts:
            times = video.times[start : start + length]
            about = {
                "source": printable(self.inputs[number]),
                "sha256": sha256,
                "fps": video.fps,
                "start_frame": start,
                "start_s": round(times[0], 6),
                "times_s": [round(time - times[0], 6) for time in times],
                "num_frames": length,
            }
            frames = (video.encoded(t) for t in range(start, start + length))
            yield {
                "__key__": f"{number:06d}_{stem}_{start:07d}",
                "json": json.dumps(about).encode(),
                **{f"{t:03d}.{suffix}": data for t, data in enumerate(frames)},
            }


def _drop_extra_shards(folder: Path, prefix: str, count: int) -> None:
    """Delete the shards ``prefix``-``count`` and on, which an earlier attempt may have written."""
    while (path := folder / f"{prefix}-{count:06d}.tar").exists():
        marker_path(folder, path.name).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        count += 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
