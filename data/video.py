"""Video files to square uint8 frames: decode, turn upright, resize, crop, thin out in time."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from data.types import VideoClip


def read_video(
    path: str | Path,
    size: int,
    fps: float | None = None,
    stride: int = 1,
    max_frames: int | None = None,
) -> VideoClip:
    """Decode a whole file (or its first ``max_frames`` kept frames); see ``VideoFrames``."""
    video = VideoFrames(path, size, fps=fps, stride=stride)
    kept = []
    for frame in video:
        kept.append(frame)
        if len(kept) == max_frames:
            break
    return VideoClip(frames=torch.stack(kept), fps=video.fps, name=Path(path).stem)


class VideoFrames:
    """The frames of one file as uint8 (3, size, size), one at a time, so that films fit in memory.

    The short side is resized to ``size`` (area average), the center square kept. Rotation noted in
    the file (phones) is applied. Of the decoded frames either every ``stride``-th is kept, or, by
    time stamp, those that make ``fps`` frames a second; a slower source keeps all it has. The
    attribute ``fps`` is the rate of the frames kept.

    Raises:
        ValueError: on construction, if the file is no video or has only sound; while iterating, if
            it breaks off or holds no frame at all.
    """

    def __init__(
        self, path: str | Path, size: int, fps: float | None = None, stride: int = 1
    ) -> None:
        if fps is not None and (fps <= 0 or stride != 1):
            raise ValueError(f"got fps={fps} and stride={stride}; give a positive fps or a stride.")
        if size < 1 or stride < 1:
            raise ValueError(f"got size={size} px and stride={stride}; both must be at least 1.")
        self.path, self.size, self.stride = Path(path), size, stride
        self.source_fps = self._read_rate()
        self.target_fps = fps if fps is not None and fps < self.source_fps else None
        self.fps = self.target_fps or self.source_fps / stride

    def _open(self) -> av.container.InputContainer:
        if not self.path.is_file():
            raise ValueError(f"{self.path} is not a file; pass the path of a video.")
        try:
            return av.open(str(self.path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ValueError(
                f"{self.path} cannot be read as a video ({_reason(error)})."
            ) from error

    def _read_rate(self) -> float:
        with self._open() as container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
                raise ValueError(f"{self.path} holds {' and '.join(kinds)} but no video stream.")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError(f"{self.path} states no frame rate; it may hold no frame at all.")
        return float(rate)

    def __iter__(self) -> Iterator[UInt8[Tensor, "3 size size"]]:
        decoded, start, last_slot = 0, None, -1
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            try:
                for frame in container.decode(stream):
                    time = decoded / self.source_fps if frame.time is None else frame.time
                    start = time if start is None else start
                    slot = self._slot(decoded, time - start)
                    if slot > last_slot:
                        yield self._square(frame)
                        last_slot = slot
                    decoded += 1
            except av.FFmpegError as error:
                raise ValueError(
                    f"{self.path} breaks off after {decoded} frames ({_reason(error)})."
                ) from error
        if not decoded:
            raise ValueError(f"{self.path} holds a video stream but not one frame.")

    def _slot(self, decoded: int, seconds: float) -> int:
        """Number of the kept frame this one would be; the first frame of each slot is kept."""
        if self.target_fps is None:
            return decoded // self.stride
        # Stamps are rounded; 0.3 of a source frame of slack keeps common rates clear of a tie.
        return int((seconds + 0.3 / self.source_fps) * self.target_fps)

    def _square(self, frame: av.VideoFrame) -> UInt8[Tensor, "3 size size"]:
        scale = self.size / min(frame.width, frame.height)
        width, height = round(frame.width * scale), round(frame.height * scale)
        pixels = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        top, left = (height - self.size) // 2, (width - self.size) // 2
        square = pixels[top : top + self.size, left : left + self.size]
        upright = np.rot90(square, k=round(frame.rotation / 90))  # counterclockwise
        return torch.from_numpy(rearrange(upright, "h w c -> c h w").copy())


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
