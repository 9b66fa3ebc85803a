"""Which frames of a video become clips: whole, inside one shot, and with something moving."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import UInt8

PAUSE = 4  # frame intervals without a frame: the recording stopped, a clip does not span it
FROM_PACKAGE = "pip install 'scenedetect>=0.7'"


@dataclass(frozen=True)
class Clips:
    """First frames of the clips to keep, and how many were left out for which reason."""

    starts: tuple[int, ...]
    static: int = 0  # clips in which too little moves
    cut: int = 0  # clips that would span a cut or a pause


def choose_clips(
    num_frames: int,
    clip_frames: int,
    stride: int,
    cuts: Sequence[int] = (),
    motion: Sequence[float] = (),
    min_motion: float = 0.0,
) -> Clips:
    """Clips of ``clip_frames`` frames that begin ``stride`` frames apart, anew at every cut.

    Args:
        cuts: frames that begin a new shot, ascending.
        motion: by frame, its mean absolute difference from the one before, in [0, 255].
        min_motion: mean of it over a clip's inner steps that a clip must reach.
    """
    starts, static, kept = [], 0, 0
    for first, end in pairwise((0, *cuts, num_frames)):
        for start in range(first, end - clip_frames + 1, stride):
            kept += 1
            if min_motion and np.mean(motion[start + 1 : start + clip_frames]) < min_motion:
                static += 1
            else:
                starts.append(start)
    uncut = len(range(0, num_frames - clip_frames + 1, stride))
    return Clips(tuple(starts), static, max(0, uncut - kept))


def split_tail(
    starts: Sequence[int], clip_frames: int, val_fraction: float
) -> tuple[list[int], list[int]]:
    """(training, validation) clips: the last ones are for validation, and share no frame with it.

    Where clips overlap, those that reach into the first validation clip are in neither.
    """
    if not val_fraction or len(starts) < 2:
        return list(starts), []
    num_val = min(max(1, round(val_fraction * len(starts))), len(starts) - 1)
    val = list(starts[-num_val:])
    return [start for start in starts if start + clip_frames <= val[0]], val


def motion_between(
    before: UInt8[np.ndarray, "height width 3"], after: UInt8[np.ndarray, "height width 3"]
) -> float:
    """Mean absolute difference of two frames, in [0, 255]."""
    return cv2.norm(before, after, cv2.NORM_L1) / before.size


class SceneCuts:
    """Content-aware scene cuts of the frames handed in one by one, by PySceneDetect.

    Raises:
        ValueError: PySceneDetect is not installed.
    """

    def __init__(self, threshold: float = 27.0) -> None:
        check_scenes_installed()
        from scenedetect import ContentDetector, FrameTimecode

        self._detector = ContentDetector(threshold=threshold, min_scene_len=1)
        self._timecode = FrameTimecode
        self.cuts: list[int] = []

    def add(self, number: int, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        """The next frame, RGB; its ``number`` joins ``cuts`` if it begins a new shot."""
        at = self._timecode(number, fps=1.0)
        found = self._detector.process_frame(at, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        self.cuts += [cut.frame_num for cut in found]


def check_scenes_installed() -> None:
    """Raise ValueError, with the command that helps, if PySceneDetect is not installed."""
    if importlib.util.find_spec("scenedetect") is None:
        raise ValueError(f"scenes=content needs PySceneDetect, which is absent: {FROM_PACKAGE}")
