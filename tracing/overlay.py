"""Tracks drawn over the frames of their video: a dot for each point, a tail for where it was."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, from_numpy

FINE = 4  # OpenCV draws at 1/16 px


def draw_tracks(
    frames: Iterable[UInt8[Tensor, "3 height width"]],
    points: Float[Tensor, "points time 2"],
    visible: Bool[Tensor, "points time"],
    tail_frames: int = 12,
) -> Iterator[UInt8[Tensor, "3 height width"]]:
    """The frames with every point in a color of its own: full in view, an empty ring if hidden.

    Tails join the positions of the last ``tail_frames`` frames in which a point was in view.
    """
    xy, seen = points.cpu().numpy(), visible.cpu().numpy()
    colors = _colors(xy[:, 0])
    for t, frame in enumerate(frames):
        pixels = np.ascontiguousarray(rearrange(frame, "c h w -> h w c").cpu().numpy())
        radius = max(2, round(min(pixels.shape[:2]) / 120))
        for own, view, color in zip(xy, seen, colors, strict=True):
            recent = np.arange(max(0, t - tail_frames), t + 1)
            line = _fixed(own[recent[view[recent]]])
            cv2.polylines(pixels, [line], False, color, max(1, radius // 2), cv2.LINE_AA, FINE)
            style = cv2.FILLED if view[t] else 1
            cv2.circle(pixels, _fixed(own[t]), radius << FINE, color, style, cv2.LINE_AA, FINE)
        yield from_numpy(rearrange(pixels, "h w c -> c h w").copy())


def _fixed(xy: Float[np.ndarray, "*n 2"]) -> np.ndarray:
    """Raster coordinates as OpenCV's: its (0, 0) is the center of the first pixel."""
    near = np.clip(xy, -1e4, 1e4)  # a point far outside is drawn nowhere all the same
    return np.round((near - 0.5) * 2**FINE).astype(np.int32)


def _colors(start: Float[np.ndarray, "points 2"]) -> list[tuple[int, int, int]]:
    """Hue goes round with the direction from the middle of all starting points."""
    away = start - start.mean(0)
    hue = (np.arctan2(away[:, 1], away[:, 0]) / (2 * np.pi) % 1 * 179).astype(np.uint8)
    hsv = np.stack([hue, np.full_like(hue, 230), np.full_like(hue, 255)], -1)[None]
    return [tuple(map(int, color)) for color in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]]
