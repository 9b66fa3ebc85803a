"""``task=video``: points of the first frame of a video, followed through the later ones."""

import csv
import hashlib
import io
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from torch import Tensor

from data.index import write_whole
from data.video import VideoFrames, write_video
from doors.asking import Question, digest
from tracing.asking import Asking, check_queries
from tracing.benchmarks.base import Tracer
from tracing.overlay import draw_tracks
from tracing.tracking import Tracks, query_grid, track_points


class Video(Question):
    """Tracks through one video, from its first frame to every later one, two frames at a time.

    Args:
        queries: a .csv of x,y in px of the frames as stored, with or without a line of names; or
            ``grid``: points ``grid_step`` px apart.
        max_frames: at most so many frames; None: all.
        fps: frames per second to keep; None: all.
        back, return_px, block, input_px: as in ``Pair``; ``return_px`` None: 4 px.
    """

    name = "video"

    def __init__(
        self,
        path: str | Path | None,
        queries: str | Path = "grid",
        grid_step: float = 32.0,
        max_frames: int | None = None,
        fps: float | None = None,
        back: bool = False,
        return_px: float | None = None,
        block: int = 64,
        input_px: int | None = None,
        device: str = "cpu",
    ) -> None:
        if path is None:
            raise ValueError("task=video needs a video: pass task.path=FILE.mp4.")
        if max_frames is not None and max_frames < 2:
            raise ValueError(f"task.max_frames={max_frames}; a track needs two frames at least.")
        self.path, self.max_frames, self.device = Path(path), max_frames, device
        self.video = VideoFrames(path, None, fps=fps)
        self.times_s, first = self._scanned()
        self.frame_hw = (first.shape[-2], first.shape[-1])
        self.from_file = queries != "grid"
        if self.from_file:
            self.queries = read_queries(queries)
        else:
            self.queries = query_grid(self.frame_hw, float(grid_step))
        frame = first.float() / 255
        try:
            check_queries(self.queries, frame, frame)
        except ValueError as error:
            raise ValueError(f"{queries}: {error}") from error
        self.fps = fps
        self.return_px = None if return_px is None else float(return_px)
        self.back, self.block, self.input_px = back, block, input_px

    def frames(self) -> Iterator[UInt8[Tensor, "3 height width"]]:
        """The frames that take part, decoded anew."""
        return islice(self.video, self.max_frames)

    def _scanned(self) -> tuple[list[float], UInt8[Tensor, "3 height width"]]:
        """The time of every frame, and the first one: a broken file is found out here."""
        times_s, first = [], None
        for time_s, frame in islice(self.video.timed(), self.max_frames):
            first = frame if first is None else first
            if frame.shape != first.shape:
                raise ValueError(
                    f"{self.path} changes size at frame {len(times_s)}, from "
                    f"{first.shape[-1]}x{first.shape[-2]} to {frame.shape[-1]}x{frame.shape[-2]} "
                    "px; cut it there."
                )
            times_s.append(time_s)
        if len(times_s) < 2:
            raise ValueError(
                f"{self.path} has one frame, and tracks need two; pass a longer video."
            )
        return times_s, first

    def inputs(self) -> dict[str, Any]:
        return {
            "video_sha256": digest(self.path),
            "resolution_hw": list(self.frame_hw),
            "fps": self.fps,
            "num_queries": len(self.queries),
            "queries_sha256": hashlib.sha256(self.queries.numpy().tobytes()).hexdigest()[:16],
            "input_px": self.input_px,
        }

    def count(self, grid_hw: tuple[int, int]) -> int:
        return len(self.queries) * (len(self.times_s) - 1)

    def answer(self, tracer: Tracer, grid_hw: tuple[int, int], how: Asking) -> Tracks:
        frames = (frame.to(self.device).float() / 255 for frame in self.frames())
        return track_points(tracer, frames, self.queries, return_px=self.return_px, how=how)

    def about(self, result: Tracks) -> dict[str, Any]:
        moved = result.points[:, -1] - result.points[:, 0]
        return {
            "path": str(self.path),
            "query_mode": "first frame to every later one, two frames at a time",
            "num_points": len(result.points),
            "num_frames": len(self.times_s),
            "fps": self.video.fps,
            "mean_motion_px": moved.norm(dim=-1).mean().item(),
            "visible_share": result.visible[:, 1:].double().mean().item(),
            "traced_back": result.return_px is not None,
            "seconds": result.seconds,
            "points_per_second": result.points_per_second,
        }

    def write(self, out: Path, result: Tracks, console: Console) -> list[Path]:
        write_whole(out / "tracks.npz", self._npz(result))
        write_whole(out / "tracks.csv", self._csv(result))
        drawn = draw_tracks(self.frames(), result.points, result.visible)
        write_video(out / "tracks.mp4", drawn, self.video.fps)
        return [out / name for name in ("tracks.npz", "tracks.csv", "tracks.mp4")]

    def _npz(self, result: Tracks) -> bytes:
        arrays = {
            "tracks": result.points,
            "visible": result.visible,
            "queries": self.queries,
            "time_s": torch.tensor(self.times_s, dtype=torch.float64),
            "peak_kl": result.peak_kl,
            "return_px": result.return_px,
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{k: v.numpy() for k, v in arrays.items() if v is not None})
        return buffer.getvalue()

    def _csv(self, result: Tracks) -> bytes:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["point", "frame", "time_s", "x", "y", "visible"])
        seen = result.visible.int().tolist()
        for point, track in enumerate(result.points.tolist()):
            for t, (x, y) in enumerate(track):
                time = f"{self.times_s[t]:.6f}"
                lines.writerow([point, t, time, f"{x:.4f}", f"{y:.4f}", seen[point][t]])
        return text.getvalue().encode()


def read_queries(path: str | Path) -> Float[Tensor, "points 2"]:
    """The x and y of every line of a .csv; a first line of names says which columns they are.

    Raises:
        ValueError: no such file, a line without two numbers, or no line at all.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; pass task.queries=FILE.csv or task.queries=grid.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [(reader.line_num, row) for reader in [csv.reader(file)] for row in reader if row]
    at = (0, 1)
    names = [name.strip().lower() for name in lines[0][1]] if lines else []
    if lines and _number(names[0]) is None:
        if not {"x", "y"} <= set(names):
            raise ValueError(
                f"{path} names its columns {', '.join(names)}; name two of them x and y."
            )
        at, lines = (names.index("x"), names.index("y")), lines[1:]
    points = []
    for number, row in lines:
        xy = [_number(row[column]) if column < len(row) else None for column in at]
        if None in xy:
            raise ValueError(f"{path}, line {number}: {','.join(row)!r} is not x,y in px.")
        points.append(xy)
    if not points:
        raise ValueError(f"{path} holds no query; write one x,y a line, in px of the frames.")
    return torch.tensor(points)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
