"""Video files to uint8 frames: decode, turn upright, square or not, thin out in time; and back."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
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

    The short side is resized to ``size`` (area average), the center square kept; with ``size`` None
    frames stay (3, height, width) as they are stored. Rotation noted in
    the file (phones) is applied. Of the decoded frames either every ``stride``-th is kept, or, by
    time stamp, those that make ``fps`` frames a second; a slower source keeps all it has. The
    attribute ``fps`` is the rate of the frames kept.

    Raises:
        ValueError: on construction, if the file is no video or has only sound; while iterating, if
            it breaks off or holds no frame at all.
    """

    def __init__(
        self, path: str | Path, size: int | None, fps: float | None = None, stride: int = 1
    ) -> None:
        if fps is not None and (fps <= 0 or stride != 1):
            raise ValueError(f"got fps={fps} and stride={stride}; give a positive fps or a stride.")
        if (size is not None and size < 1) or stride < 1:
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

    def __iter__(self) -> Iterator[UInt8[Tensor, "3 height width"]]:
        return (frame for _, frame in self.timed())

    def timed(self) -> Iterator[tuple[float, UInt8[Tensor, "3 height width"]]]:
        """Each frame after its time in seconds since the first."""
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
                        yield time - start, self._upright(frame)
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

    def _upright(self, frame: av.VideoFrame) -> UInt8[Tensor, "3 height width"]:
        pixels = frame.to_ndarray(format="rgb24") if self.size is None else self._square(frame)
        upright = np.rot90(pixels, k=round(frame.rotation / 90))  # counterclockwise
        return torch.from_numpy(rearrange(upright, "h w c -> c h w").copy())

    def _square(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "size size 3"]:
        scale = self.size / min(frame.width, frame.height)
        width, height = round(frame.width * scale), round(frame.height * scale)
        pixels = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return pixels[top : top + self.size, left : left + self.size]


def write_video(
    path: str | Path, frames: Iterable[UInt8[Tensor, "3 height width"]], fps: float
) -> None:
    """An .mp4 that players play, whole or not there at all: H.264, or MPEG-4 part 2 without it.

    A side of an odd number of pixels gets one more, a copy of its last, as 4:2:0 color asks for.

    Raises:
        ValueError: there is no frame.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = None
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            for frame in frames:
                pixels = _even(rearrange(frame, "c h w -> h w c").cpu().numpy())
                if stream is None:
                    rate = Fraction(fps).limit_denominator(1001)
                    stream = container.add_stream(codec, rate=rate)
                    stream.height, stream.width = pixels.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    stream.bit_rate = 8 * pixels[..., 0].size  # enough for thin lines
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if stream is None:
                raise ValueError(f"{path} would hold no frame; pass at least one.")
            container.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _even(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "even_h even_w 3"]:
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
