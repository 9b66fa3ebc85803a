"""One pixel of one synthetic scene at a time, in plain Python: where it goes, and is it in view."""

import math

from data.synthetic import Layers


def covers(layers: Layers, scene: int, layer: int, local: tuple[float, float]) -> bool:
    """Whether a place relative to the layer's origin lies inside the layer's outline."""
    radius = float(layers.radius[scene, layer])
    if radius == 0:
        return False
    x, y = local
    angle, outline = math.atan2(y, x), 1.0
    for harmonic, (amplitude, phase) in enumerate(layers.waves[scene, layer].tolist(), start=2):
        outline += amplitude * math.cos(harmonic * angle + phase)
    return radius * outline - math.hypot(x, y) + 0.5 > 0.5


def follow(layers: Layers, scene: int, x: float, y: float, size: int):
    """(layer, (x, y) in frame 1, visible) of the point (x, y) of frame 0."""
    count = layers.radius.shape[1]
    front = 0
    for layer in range(count):
        cx, cy = layers.center[scene, layer].tolist()
        if covers(layers, scene, layer, (x - cx, y - cy)):
            front = layer
    cx, cy = layers.center[scene, front].tolist()
    (a, b), (c, d) = layers.turn[scene, front].tolist()
    dx, dy = layers.shift[scene, front].tolist()
    to_x = a * (x - cx) + b * (y - cy) + cx + dx
    to_y = c * (x - cx) + d * (y - cy) + cy + dy
    visible = 0 <= to_x < size and 0 <= to_y < size
    for layer in range(front + 1, count):
        cx, cy = layers.center[scene, layer].tolist()
        dx, dy = layers.shift[scene, layer].tolist()
        (a, b), (c, d) = layers.turn[scene, layer].tolist()
        back_x, back_y = to_x - cx - dx, to_y - cy - dy
        determinant = a * d - b * c
        local = (
            (d * back_x - b * back_y) / determinant,
            (a * back_y - c * back_x) / determinant,
        )
        visible = visible and not covers(layers, scene, layer, local)
    return front, (to_x, to_y), visible
