"""Interpolation between queries, one pixel at a time, by the textbook's four corners."""

import torch
from torch import Tensor


def slow_spread(
    values: Tensor, points: Tensor, height: int, width: int, beyond: bool = True
) -> Tensor:
    """As ``tracing.dense.spread``: values (channels, rows, cols) at points (rows, cols, 2)."""
    out = torch.zeros(len(values), height, width, dtype=torch.float64)
    columns, lines = points[0, :, 0].tolist(), points[:, 0, 1].tolist()
    for i in range(height):
        above, below, down = _between(lines, i + 0.5, beyond)
        for j in range(width):
            left, right, across = _between(columns, j + 0.5, beyond)
            for c, field in enumerate(values.double()):
                top = (1 - across) * field[above, left] + across * field[above, right]
                bottom = (1 - across) * field[below, left] + across * field[below, right]
                out[c, i, j] = (1 - down) * top + down * bottom
    return out.to(values.dtype)


def _between(knots: list[float], at: float, beyond: bool) -> tuple[int, int, float]:
    """The two knots that are used at a place, and the share of the second."""
    if len(knots) == 1:
        return 0, 0, 0.0
    first = max(k for k in range(len(knots) - 1) if k == 0 or knots[k] <= at)
    share = (at - knots[first]) / (knots[first + 1] - knots[first])
    return first, first + 1, share if beyond else min(max(share, 0.0), 1.0)
