"""One video, decoded once: its kept frames encoded and set aside, so that clips can share them."""

import tempfile
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from data.filters import PAUSE, SceneCuts, motion_between

IN_MEMORY = 2**26  # bytes of encoded frames; more go to an unnamed file


@runtime_checkable  # so the test-time checker can see it
class Frames(Protocol):
    """What decoders have in common: see ``data.video.VideoFrames``."""

    fps: float

    def timed_pixels(self): ...


class EncodedVideo:
    """All kept frames of a video. A context manager, since long videos lie in an unnamed file.

    ``times``: of each frame, in seconds since the first; ``cuts``: frames that begin a new shot or
    follow a pause; ``motion``: ``motion_between`` a frame and the one before, where asked for.
    """

    def __init__(
        self,
        frames: Frames,
        suffix: str,
        scenes: SceneCuts | None = None,
        with_motion: bool = False,
        scratch: Path | None = None,
        count=lambda: None,
    ) -> None:
        self.fps, self.times = frames.fps, []
        self.motion: list[float] = []
        self.ends, cuts = [0], []
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=scratch)  # noqa: SIM115
        try:
            before = None
            for number, (time, pixels) in enumerate(frames.timed_pixels()):
                if number and time - self.times[-1] > PAUSE / frames.fps:
                    cuts.append(number)
                if scenes is not None:
                    scenes.add(number, pixels)
                if with_motion:
                    self.motion.append(0.0 if before is None else motion_between(before, pixels))
                    before = pixels
                encoded = encode(pixels, suffix)
                self._file.write(encoded)
                self.ends.append(self.ends[-1] + len(encoded))
                self.times.append(time)
                count()
        except BaseException:
            self._file.close()
            raise
        self.cuts = sorted({*cuts, *(scenes.cuts if scenes is not None else ())})

    def __len__(self) -> int:
        return len(self.times)

    def encoded(self, number: int) -> bytes:
        """The file of one frame."""
        self._file.seek(self.ends[number])
        return self._file.read(self.ends[number + 1] - self.ends[number])

    def __enter__(self) -> "EncodedVideo":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def encode(pixels: UInt8[np.ndarray, "height width 3"], suffix: str) -> bytes:
    """An RGB frame as a file: jpg (quality 95, no chroma subsampling) or png (lossless)."""
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 95]
    jpeg += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(f".{suffix}", bgr, jpeg if suffix == "jpg" else [])[1].tobytes()
