"""Video files to uint8 frames: decode, turn upright, square or not, thin out in time; and back."""

import os
import stat
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

MAX_PIXELS = 2**26  # in one frame: 8192 x 8192
MIN_SIDE_PX = 8  # of a frame that is to be resized
MAX_ASPECT = 32  # long side / short side of one
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv,gif,yuv4mpegpipe"
)
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": CONTAINERS,
    "max_pixels": str(MAX_PIXELS),
}


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
    time stamp, those that make ``fps`` frames a second, also where the rate varies; a slower source
    keeps all it has. The attribute ``fps`` is the rate of the frames kept, on average over the file
    where the rate varies. ``threads``: of the decoder; None = as many as it likes.

    Only local files in the containers of ``CONTAINERS`` are opened: a playlist, whatever it is
    called, is refused, so that a file cannot make us read another one or the network.

    Raises:
        ValueError: on construction, if the file is no video, has only sound or a picture too large
            or too small to use; while iterating, if it breaks off or holds no frame at all.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None,
        fps: float | None = None,
        stride: int = 1,
        threads: int | None = None,
    ) -> None:
        if fps is not None and (fps <= 0 or stride != 1):
            raise ValueError(f"got fps={fps} and stride={stride}; give a positive fps or a stride.")
        if (size is not None and size < 1) or stride < 1:
            raise ValueError(f"got size={size} px and stride={stride}; both must be at least 1.")
        self.path, self.size, self.stride, self.threads = Path(path), size, stride, threads
        self.source_fps, self.target_fps = self._read_rate(), fps
        self.fps = min(fps or self.source_fps, self.source_fps) / stride

    def _open(self) -> av.container.InputContainer:
        kind = kind_of_file(self.path)
        if kind != "a file":
            raise ValueError(f"{printable(self.path)} is {kind}; pass the path of a video.")
        try:
            # Absolute: a name like "concat:a|b" would otherwise be taken for an instruction.
            return av.open(str(self.path.absolute()), options=OPEN_OPTIONS)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ValueError(
                f"{printable(self.path)} cannot be read as a video ({_reason(error)})."
            ) from error

    def _read_rate(self) -> float:
        with self._open() as container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
                raise ValueError(
                    f"{printable(self.path)} holds {' and '.join(kinds)} but no video stream."
                )
            stream = container.streams.video[0]
            self._check_size(stream.codec_context.height, stream.codec_context.width)
            rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError(
                f"{printable(self.path)} states no frame rate; it may hold no frame at all."
            )
        return float(rate)

    def _check_size(self, height: int, width: int) -> None:
        short, long = sorted((height, width))
        if not short or height * width > MAX_PIXELS:
            raise ValueError(
                f"{printable(self.path)} says its frames are {width}x{height} px; expected 1 to "
                f"{MAX_PIXELS} pixels in all: encode it anew at a usual size."
            )
        if self.size is not None and (short < MIN_SIDE_PX or long > MAX_ASPECT * short):
            raise ValueError(
                f"{printable(self.path)} has frames of {width}x{height} px; expected at least "
                f"{MIN_SIDE_PX} px a side and sides that differ {MAX_ASPECT}-fold at most."
            )

    def __iter__(self) -> Iterator[UInt8[Tensor, "3 height width"]]:
        return (frame for _, frame in self.timed())

    def timed(self) -> Iterator[tuple[float, UInt8[Tensor, "3 height width"]]]:
        """Each frame after its time in seconds since the first."""
        for time, pixels in self.timed_pixels():
            yield time, torch.from_numpy(rearrange(pixels, "h w c -> c h w").copy())

    def timed_pixels(self) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
        """As ``timed``, each frame an RGB array with its channels last."""
        decoded, start, last_slot = 0, None, -1
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if self.threads is not None:
                stream.codec_context.thread_count = self.threads
            try:
                for frame in container.decode(stream):
                    time = decoded / self.source_fps if frame.time is None else frame.time
                    start = time if start is None else start
                    slot = self._slot(decoded, time - start)
                    if slot > last_slot:
                        yield time - start, self._upright(frame)
                        last_slot = slot
                    decoded += 1
            except (av.FFmpegError, MemoryError) as error:
                raise ValueError(
                    f"{printable(self.path)} breaks off after {decoded} frames ({_reason(error)})."
                ) from error
        if not decoded:
            raise ValueError(f"{printable(self.path)} holds a video stream but not one frame.")

    def _slot(self, decoded: int, seconds: float) -> int:
        """Number of the kept frame this one would be; the first frame of each slot is kept."""
        if self.target_fps is None:
            return decoded // self.stride
        # Stamps are rounded; 0.3 of a frame of slack keeps common rates clear of a tie.
        slack = 0.3 / max(self.source_fps, self.target_fps)
        return int((seconds + slack) * self.target_fps)

    def _upright(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        pixels = frame.to_ndarray(format="rgb24") if self.size is None else self._square(frame)
        return np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90)))  # counterclock.

    def _square(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "size size 3"]:
        self._check_size(frame.height, frame.width)  # it may change on the way
        scale = self.size / min(frame.width, frame.height)
        width, height = round(frame.width * scale), round(frame.height * scale)
        pixels = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return pixels[top : top + self.size, left : left + self.size]


def kind_of_file(path: Path) -> str:
    """ "a file", or what it is instead: a folder, a named pipe, a dangling link, unreadable, ...

    Looks without opening, since opening a named pipe would wait for ever.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            return "a link that leads nowhere"
        return f"not a file ({error.strerror})"
    kinds = (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket")
    if stat.S_ISREG(mode):
        return "a file" if os.access(path, os.R_OK) else "not a file we may read"
    return next((f"{kind}, not a file" for test, kind in kinds if test(mode)), "not a file")


def printable(path: str | Path) -> str:
    """The path as text that every console takes, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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
