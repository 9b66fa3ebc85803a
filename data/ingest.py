"""Videos to clip shards: ``python -m data.ingest videos=DIR out=DIR [size=64 clip_frames=16 ...]``.

Every video is decoded, squared and cut into clips of ``clip_frames`` consecutive frames (what is
left at its end is dropped). Training and validation never share a frame: with ``split=tail`` the
last ``val_fraction`` of each video's clips are for validation, with ``split=source`` whole videos
are. ``out/train`` and ``out/val`` each get tar shards and an index.json. A sample is KEY.json
(source, fps, start_frame, num_frames) and KEY.000.jpg, KEY.001.jpg, ... Same videos and same
settings make the same bytes.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import cv2
from einops import rearrange
from jaxtyping import UInt8
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from data.index import ShardWriter, sync_folder
from data.video import VideoFrames

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")


@dataclass(kw_only=True)
class IngestConfig:
    """What ``data.ingest`` takes on its command line as key=value."""

    videos: str = MISSING  # folder, searched with its subfolders
    out: str = MISSING  # folder to make; must not hold anything yet
    size: int = 64  # px, square
    clip_frames: int = 16  # frames in every clip
    fps: float | None = None  # frames per second to keep; null = all
    format: str = "jpg"  # jpg (quality 95, no chroma subsampling) or png
    shard_clips: int = 64  # clips in one tar file
    split: str = "tail"  # tail or source
    val_fraction: float = 0.1  # of the clips (tail) or videos (source); 0 = no val/
    seed: int = 0  # picks the validation videos of split=source
    strict: bool = False  # the first bad video ends the run and nothing is written

    def __post_init__(self) -> None:
        if self.size < 8 or self.clip_frames < 2 or self.shard_clips < 1:
            raise ValueError(
                f"got size={self.size} clip_frames={self.clip_frames} shard_clips="
                f"{self.shard_clips}; they must be at least 8 px, 2 frames and 1 clip."
            )
        if self.fps is not None and self.fps <= 0:
            raise ValueError(
                f"got fps={self.fps}; pass a positive rate or fps=null for all frames."
            )
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"got val_fraction={self.val_fraction}; it must be in [0, 1).")
        if self.format not in ("jpg", "png") or self.split not in ("tail", "source"):
            raise ValueError(
                f"got format={self.format} split={self.split}; format is jpg or png, "
                "split is tail or source."
            )


@dataclass
class IngestResult:
    """Clips written for training and validation, and the reason for every video left out."""

    clips: dict[str, int] = field(default_factory=lambda: {"train": 0, "val": 0})
    skipped: dict[str, str] = field(default_factory=dict)


def ingest(cfg: IngestConfig, console: Console | None = None) -> IngestResult:
    """Write the shards; bad videos are reported on ``console``, named in the result and skipped.

    Raises:
        ValueError: a folder is missing, empty or in the way, no clip could be made, or a video is
            bad and ``cfg.strict``. ``cfg.out`` is then left as it was.
    """
    videos, out = find_videos(Path(cfg.videos)), Path(cfg.out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} exists and is not empty; name a new folder or delete it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    console = console or Console(stderr=True, quiet=True)
    try:
        result = _write_splits(cfg, videos, partial, console)
        if not sum(result.clips.values()):
            raise ValueError(f"no clip was written: each of {len(videos)} videos was skipped.")
        partial.replace(out)  # a rename: out is whole or absent
        sync_folder(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def find_videos(folder: Path) -> list[Path]:
    """Every file with the suffix of a video, sorted, hidden files left out."""
    if not folder.is_dir():
        raise ValueError(f"videos={folder} is not a folder; pass one that holds video files.")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise ValueError(f"videos={folder} holds no video ({' '.join(SUFFIXES)}).")
    return found


def _write_splits(
    cfg: IngestConfig, videos: list[Path], folder: Path, console: Console
) -> IngestResult:
    result = IngestResult()
    for_val = _validation_videos(cfg, len(videos))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        closing(_shard_writer(folder / "train", cfg)) as train,
        closing(_shard_writer(folder / "val", cfg)) as val,
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        task = progress.add_task("ingest", total=len(videos))
        for number, path in enumerate(videos):
            progress.update(task, description=path.name)
            try:
                clips = list(_clips(path, number, cfg))  # encoded: one video fits in memory
            except ValueError as error:
                if cfg.strict:
                    raise
                result.skipped[str(path)] = str(error)
                console.print(f"skipped: {error}", style="yellow", markup=False, soft_wrap=True)
                clips = []
            num_train = len(clips) - _num_val(cfg, len(clips), number in for_val)
            for writer, part in (train, clips[:num_train]), (val, clips[num_train:]):
                for clip in part:
                    writer.write(clip)
            progress.advance(task)
        result.clips = {"train": train.finish(), "val": val.finish()}
    return result


def _shard_writer(folder: Path, cfg: IngestConfig) -> ShardWriter:
    settings = {key: value for key, value in asdict(cfg).items() if key not in ("videos", "out")}
    return ShardWriter(folder, cfg.shard_clips, cfg.size, cfg.clip_frames, settings)


def _validation_videos(cfg: IngestConfig, num_videos: int) -> set[int]:
    if cfg.split == "tail" or not cfg.val_fraction or num_videos < 2:
        return set()
    count = max(1, round(cfg.val_fraction * num_videos))
    return set(Random(cfg.seed).sample(range(num_videos), min(count, num_videos - 1)))


def _num_val(cfg: IngestConfig, num_clips: int, is_val_video: bool) -> int:
    """How many clips, counted from the end of the video, are for validation."""
    if cfg.split == "source":
        return num_clips if is_val_video else 0
    if not cfg.val_fraction or num_clips < 2:
        return 0
    return min(max(1, round(cfg.val_fraction * num_clips)), num_clips - 1)


def _clips(path: Path, number: int, cfg: IngestConfig) -> Iterator[dict]:
    """The video's clips as webdataset samples of encoded frames."""
    frames = VideoFrames(path, cfg.size, fps=cfg.fps)
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:48]  # a dot would end the key
    encoded, total = [], 0
    for total, frame in enumerate(frames, start=1):
        encoded.append(_encode(frame, cfg.format))
        if len(encoded) == cfg.clip_frames:
            start = total - cfg.clip_frames
            about = {
                "source": path.relative_to(cfg.videos).as_posix(),
                "fps": frames.fps,
                "start_frame": start,
                "num_frames": cfg.clip_frames,
            }
            yield {
                "__key__": f"{number:06d}_{stem}_{start:07d}",
                "json": json.dumps(about).encode(),
                **{f"{t:03d}.{cfg.format}": data for t, data in enumerate(encoded)},
            }
            encoded = []
    if total < cfg.clip_frames:
        raise ValueError(f"{path} has {total} frames, fewer than clip_frames={cfg.clip_frames}.")


def _encode(frame: UInt8[Tensor, "3 height width"], suffix: str) -> bytes:
    pixels = cv2.cvtColor(rearrange(frame, "c h w -> h w c").numpy(), cv2.COLOR_RGB2BGR)
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 95]
    jpeg += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(f".{suffix}", pixels, jpeg if suffix == "jpg" else [])[1].tobytes()


def parse(arguments: list[str]) -> IngestConfig:
    """The config that key=value arguments describe.

    Raises:
        ValueError: a key is misspelt or missing, or a value is of the wrong kind.
    """
    schema = OmegaConf.structured(IngestConfig)
    try:
        given = OmegaConf.from_cli(arguments)
        merged = OmegaConf.merge(schema, given)
    except ConfigKeyError as error:
        known = " ".join(schema.keys())
        raise ValueError(f"no setting is called {error.key}; there are: {known}.") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}.") from error
    missing = OmegaConf.missing_keys(merged)
    if missing:
        raise ValueError(
            f"{' and '.join(sorted(missing))} not given; type: "
            "python -m data.ingest videos=DIR out=DIR"
        )
    return OmegaConf.to_object(merged)


def main(arguments: list[str]) -> int:
    """Run the command; exit status 1 when it wrote nothing."""
    console = Console(stderr=True)
    try:
        cfg = parse(arguments)
        result = ingest(cfg, console)
    except (ValueError, OSError) as error:
        console.print(f"ingest: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    console.print(
        f"wrote {result.clips['train']} training and {result.clips['val']} validation clips of "
        f"{cfg.clip_frames} frames at {cfg.size} px to {cfg.out}; "
        f"{len(result.skipped)} videos skipped",
        markup=False,
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
