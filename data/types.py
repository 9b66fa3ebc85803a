"""What readers hand over: plain frozen records of tensors, checked nowhere else.

Frames in float are [0, 1], in uint8 [0, 255]. Points are (x, y) raster pixels: the image's top-left
corner is (0, 0) and the center of its first pixel (0.5, 0.5).
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class FlowPair:
    """Two frames and the displacement (u, v) in pixels from frame 0 to frame 1.

    ``flow`` sits at the pixel centers of frame 0 and is 0 where ``valid`` is False. ``visible`` is
    False where a pixel of frame 0 is hidden in frame 1; None where nobody annotated it.

    Where ground truth is finer than the frames, ``finer`` holds every true vector of a pixel and
    ``finer_known`` which of them are known; the nearest one counts. ``flow`` is the first known.
    """

    frame0: Float[Tensor, "3 height width"]
    frame1: Float[Tensor, "3 height width"]
    flow: Float[Tensor, "2 height width"]
    valid: Bool[Tensor, "height width"]
    visible: Bool[Tensor, "height width"] | None
    name: str
    finer: Float[Tensor, "vectors 2 height width"] | None = None
    finer_known: Bool[Tensor, "vectors height width"] | None = None


@dataclass(frozen=True)
class VideoClip:
    """Consecutive frames of one video; ``fps`` is the rate of the frames kept, per second."""

    frames: UInt8[Tensor, "time 3 height width"]
    fps: float
    name: str


@dataclass(frozen=True)
class TrackSet:
    """Positions of points over time; a position means nothing where ``visible`` is False."""

    points: Float[Tensor, "points time 2"]
    visible: Bool[Tensor, "points time"]
    frames: UInt8[Tensor, "time 3 height width"]
    name: str


@dataclass(frozen=True)
class PointPairs:
    """Two-frame queries with ground truth: where ``points`` of frame 0 are in frame 1.

    ``visible`` is False where the target is hidden in frame 1; ``valid`` is False on rows that
    only pad a pair to the common number of points and are never scored. ``layer`` says what a
    point sits on, 0 = background, then front to front-most sprite; None where nobody knows.
    """

    frame0: Float[Tensor, "pairs 3 height width"]
    frame1: Float[Tensor, "pairs 3 height width"]
    points: Float[Tensor, "pairs points 2"]
    target: Float[Tensor, "pairs points 2"]
    visible: Bool[Tensor, "pairs points"]
    valid: Bool[Tensor, "pairs points"]
    name: str
    layer: Int[Tensor, "pairs points"] | None = None
