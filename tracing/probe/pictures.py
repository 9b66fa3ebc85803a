"""One small picture of a few queries, the same ones at every probe: a slider shows flow emerge.

Drawn with OpenCV in a few milliseconds, without a display.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.types import PointPairs

SIDE_PX = 256  # of a panel
GREEN, RED, BLUE, WHITE = (32, 192, 64), (224, 32, 32), (0, 160, 255), (255, 255, 255)
Canvas = UInt8[np.ndarray, "canvas_rows canvas_cols 3"]


def probe_picture(
    pair: PointPairs, xy: Float[Tensor, "points 2"], maps: Float[Tensor, "points rows cols"]
) -> Canvas:
    """Frame 0 with arrows (true green, answer red); frame 1; the KL map of the first visible point.

    The query of the map is ringed blue in frame 0; its target (green) and answer (red) are
    marked in frame 1 and on the map, which is scaled to its own peak.
    """
    visible = pair.visible[0].nonzero()[:, 0].tolist()
    first = visible[0] if visible else 0
    query, target, answer = pair.points[0, first], pair.target[0, first], xy[first]
    left, factor = _canvas(pair.frame0[0])
    for i in visible:
        _arrow(left, pair.points[0, i], pair.target[0, i], factor, GREEN)
        _arrow(left, pair.points[0, i], xy[i], factor, RED)
    _ring(left, query, factor, BLUE)
    middle, _ = _canvas(pair.frame1[0])
    right = _heat(maps[first], middle)
    for panel in (middle, right):
        _ring(panel, target, factor, GREEN)
        _cross(panel, answer, factor, RED)
    gap = np.full((left.shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([left, gap, middle, gap, right], axis=1)


def _canvas(frame: Float[Tensor, "3 height width"]) -> tuple[Canvas, tuple[float, float]]:
    """The frame enlarged to ``SIDE_PX`` on its shorter side, and the factors (x, y)."""
    pixels = (frame.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    height, width = frame.shape[-2:]
    scale = SIDE_PX / min(height, width)
    size = (round(width * scale), round(height * scale))
    drawn = cv2.resize(pixels.cpu().numpy(), size, interpolation=cv2.INTER_NEAREST)
    return drawn, (size[0] / width, size[1] / height)


def _heat(values: Float[Tensor, "rows cols"], behind: Canvas) -> Canvas:
    peak = values.max().clamp_min(1e-12)
    levels = (values / peak).nan_to_num(0).clamp(0, 1).mul(255).round().byte().cpu().numpy()
    size = (behind.shape[1], behind.shape[0])
    levels = cv2.resize(levels, size, interpolation=cv2.INTER_NEAREST)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
    gray = cv2.cvtColor(cv2.cvtColor(behind, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(colors, 0.75, gray, 0.25, 0)


def _place(point: Tensor, factor: tuple[float, float]) -> tuple[int, int] | None:
    """A raster point on the canvas; None where the answer is no number."""
    x, y = (point.detach().cpu().double() * torch.tensor(factor)).tolist()
    if not np.isfinite([x, y]).all():
        return None
    return round(min(max(x, -4096), 4096)), round(min(max(y, -4096), 4096))


def _arrow(canvas: Canvas, start: Tensor, end: Tensor, factor: tuple, color: tuple) -> None:
    tail, head = _place(start, factor), _place(end, factor)
    if tail is not None and head is not None:
        length = max(1.0, float(np.hypot(head[0] - tail[0], head[1] - tail[1])))
        tip = min(0.4, 9 / length)  # OpenCV wants it as a share of the length
        cv2.arrowedLine(canvas, tail, head, color, 2, cv2.LINE_AA, tipLength=tip)


def _ring(canvas: Canvas, point: Tensor, factor: tuple, color: tuple) -> None:
    if (center := _place(point, factor)) is not None:
        cv2.circle(canvas, center, 8, WHITE, 4, cv2.LINE_AA)
        cv2.circle(canvas, center, 8, color, 2, cv2.LINE_AA)


def _cross(canvas: Canvas, point: Tensor, factor: tuple, color: tuple) -> None:
    if (center := _place(point, factor)) is not None:
        for wide, shade in ((5, WHITE), (2, color)):
            cv2.drawMarker(canvas, center, shade, cv2.MARKER_TILTED_CROSS, 14, wide, cv2.LINE_AA)
