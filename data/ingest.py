"""Videos to clip shards: ``python -m data.ingest videos=DIR out=DIR [size=64 clip_frames=16 ...]``.

Every video is decoded once, squared and cut into clips. Training and validation never share a
frame: with ``split=tail`` the last ``val_fraction`` of each video's clips are for validation, with
``split=source`` whole videos are. ``out/train`` and ``out/val`` each get tar shards and an index,
``out`` gets ingest.json (what was asked, what came out) and skipped.json (why videos were left
out). Same videos and same settings make the same bytes, whatever was killed on the way and however
many workers there were; the same command goes on where it stopped. ``python -m data.ingest verify
OUT`` reads everything again.
"""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import MISSING
from rich.console import Console

from data import command_line
from data.engines import EngineConfig, engine_fields, run_job
from data.filters import check_scenes_installed
from data.ingest_job import DECODERS, SKIPPED, IngestJob
from data.inputs import find_inputs
from data.torchcodec_video import check_torchcodec
from data.verify import verify
from data.video import printable

SHOWN = 20  # reasons printed; all of them are in skipped.json


@dataclass(kw_only=True)
class IngestConfig(EngineConfig):
    """What ``data.ingest`` takes on its command line as key=value."""

    videos: str = MISSING  # folder, searched with its subfolders; LIST.txt; 'GLOB'; or one file
    out: str = MISSING  # folder to make, or one that the same command began
    size: int = 64  # px, square
    clip_frames: int = 16  # frames in every clip
    stride: int | None = None  # frames from one clip's start to the next's; null = clip_frames
    fps: float | None = None  # frames per second to keep, by time stamp; null = all
    format: str = "jpg"  # jpg (quality 95, no chroma subsampling) or png
    scenes: str | None = None  # content = no clip spans a cut, by PySceneDetect; null = unchecked
    scene_threshold: float = 27.0  # of scenes=content; smaller finds more cuts
    min_motion: float = 0.0  # mean absolute difference of neighbors, 0..255, that a clip must have
    decoder: str = "pyav"  # pyav, or torchcodec where it can be loaded
    shard_clips: int = 64  # clips in one tar file
    task_videos: int = 4  # videos that one worker takes at a time; shards never cross tasks
    split: str = "tail"  # tail or source
    val_fraction: float = 0.1  # of the clips (tail) or videos (source); 0 = no val/
    seed: int = 0  # picks the validation videos of split=source
    strict: bool = False  # the first bad video ends the run: no index, nothing half-written

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 8 or self.clip_frames < 2 or min(self.shard_clips, self.task_videos) < 1:
            raise ValueError(
                f"got size={self.size} clip_frames={self.clip_frames} shard_clips="
                f"{self.shard_clips} task_videos={self.task_videos}; they must be at least 8 px, "
                f"2 frames, 1 clip and 1 video."
            )
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"got stride={self.stride}; pass 1 frame or more, or stride=null.")
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
        if self.scenes not in (None, "content") or self.decoder not in DECODERS:
            raise ValueError(
                f"got scenes={self.scenes} decoder={self.decoder}; scenes is content or null, "
                f"decoder is {' or '.join(DECODERS)}."
            )
        if not 0 <= self.min_motion <= 255 or self.scene_threshold <= 0:
            raise ValueError(
                f"got min_motion={self.min_motion} scene_threshold={self.scene_threshold}; "
                f"min_motion is in [0, 255], scene_threshold above 0."
            )

    def settings(self) -> dict:
        """What decides which bytes come out, besides the videos."""
        others = {"videos", "out", "strict", *engine_fields()}
        return {key: value for key, value in asdict(self).items() if key not in others}


@dataclass
class IngestResult:
    """Clips written, the reason for every video left out, by its name, and counts besides.

    ``static`` and ``cut`` clips were left out by the filters; ``frames`` were kept and encoded.
    """

    clips: dict[str, int] = field(default_factory=lambda: {"train": 0, "val": 0})
    skipped: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    static: int = 0
    cut: int = 0


def ingest(cfg: IngestConfig, console: Console | None = None) -> IngestResult:
    """Write the shards, or what of them is missing; bad videos are named and skipped.

    Raises:
        ValueError: a folder is missing, empty or in the way, ``cfg.out`` was begun with other
            settings or videos, no clip could be made (``cfg.out`` is then left as it was), or a
            video is bad and ``cfg.strict``: tasks that are done stay, whole, for the next time,
            nothing else does, and there is no index that would let a loader in.
        RuntimeError: workers failed; the same command goes on.
    """
    if cfg.scenes is not None:
        check_scenes_installed()
    if cfg.decoder == "torchcodec":
        check_torchcodec()
    job = IngestJob(
        settings=cfg.settings(),
        out=Path(cfg.out).absolute(),
        found=find_inputs(cfg.videos),
        strict=cfg.strict,
    )
    console = console or Console(stderr=True, quiet=True)
    result = run_job(job, cfg, console)
    names = IngestResult.__dataclass_fields__
    made = IngestResult(**{name: value for name, value in result.items() if name in names})
    made.skipped = job.read_skipped()
    for number, reason in enumerate(made.skipped.values()):
        if number == SHOWN:
            more = f"... {len(made.skipped) - SHOWN} more in {printable(job.out / SKIPPED)}"
            console.print(more, style="yellow", markup=False, soft_wrap=True)
            break
        console.print(f"skipped: {reason}", style="yellow", markup=False, soft_wrap=True)
    return made


def parse(arguments: list[str]) -> IngestConfig:
    """The config that key=value arguments describe; ValueError at a mistake."""
    return command_line.parse(IngestConfig, arguments, "python -m data.ingest videos=DIR out=DIR")


def main(arguments: list[str]) -> int:
    """Run the command; exit status 1 when there is no whole set of shards at the end of it."""
    console = Console(stderr=True)
    if arguments[:1] == ["verify"]:
        return verify_command(arguments[1:], console)
    start = time.monotonic()
    try:
        cfg = parse(arguments)
        result = ingest(cfg, console)
    except (ValueError, OSError, RuntimeError) as error:
        console.print(f"ingest: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("ingest: stopped; the same command goes on where it stopped", markup=False)
        return 130
    filtered = f", {result.static} static clips and {result.cut} across cuts left out"
    console.print(
        f"{result.clips['train']} training and {result.clips['val']} validation clips of "
        f"{cfg.clip_frames} frames at {cfg.size} px are in {printable(cfg.out)}; "
        f"{len(result.skipped)} videos skipped"
        f"{filtered if result.static or result.cut else ''}; "
        f"{time.monotonic() - start:.0f} s",
        markup=False,
        soft_wrap=True,
    )
    return 0


def verify_command(arguments: list[str], console: Console) -> int:
    """``verify OUT``: exit status 1 if anything is not as it was written."""
    if len(arguments) != 1:
        text = "ingest: verify takes one folder; type: python -m data.ingest verify OUT"
        console.print(text, style="red", markup=False)
        return 1
    try:
        report = verify(arguments[0], console)
    except (ValueError, OSError) as error:
        console.print(f"verify: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    for problem in report.problems:
        console.print(f"verify: {problem}", style="red", markup=False, soft_wrap=True)
    console.print(
        f"{report.shards} shards with {report.samples} samples read, "
        f"{len(report.problems)} problems",
        markup=False,
        soft_wrap=True,
    )
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
