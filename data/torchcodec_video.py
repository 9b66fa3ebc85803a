"""Decoding by torchcodec, where its FFmpeg libraries are found: ``decoder=torchcodec``."""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from data.video import VideoFrames, printable


def check_torchcodec() -> None:
    """Raise ValueError, with the command that helps, where torchcodec cannot be loaded."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"decoder=torchcodec cannot be loaded ({reason}); pip install torchcodec, with FFmpeg "
            f"4 to 9 as shared libraries, or leave decoder=pyav."
        ) from error


class TorchcodecFrames(VideoFrames):
    """As ``VideoFrames``, which it asks about the file; frames are decoded by torchcodec."""

    def timed_pixels(self) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
        check_torchcodec()
        from torchcodec.decoders import VideoDecoder

        last_slot, start, number = -1, 0.0, -1
        try:
            decoder = VideoDecoder(
                str(self.path.absolute()),
                dimension_order="NHWC",
                num_ffmpeg_threads=self.threads or 0,
            )
            for number, index in enumerate(range(len(decoder))):
                frame = decoder.get_frame_at(index)
                start = frame.pts_seconds if number == 0 else start
                slot = self._slot(number, frame.pts_seconds - start)
                if slot > last_slot:
                    yield frame.pts_seconds - start, self._squared(frame.data.numpy())
                    last_slot = slot
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"{printable(self.path)} breaks off after {number + 1} frames "
                f"({str(error).splitlines()[0]})."
            ) from error
        if last_slot < 0:
            raise ValueError(f"{printable(self.path)} holds a video stream but not one frame.")

    def _squared(
        self, pixels: UInt8[np.ndarray, "height0 width0 3"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        if self.size is None:
            return pixels
        height, width = pixels.shape[:2]
        self._check_size(height, width)
        scale = self.size / min(height, width)
        shape = round(width * scale), round(height * scale)
        resized = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
        top, left = ((side - self.size) // 2 for side in resized.shape[:2])
        window = resized[top : top + self.size, left : left + self.size]
        return np.ascontiguousarray(window)
