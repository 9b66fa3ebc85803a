"""Test-time augmentation as one would do it by hand: one pixel, one patch, one guise at a time."""

import numpy as np

CHANNELS = ["rgb", "gbr", "brg", "rbg", "bgr", "grb", "gbr", "brg"]
MIRRORS = ["", "x", "y", "xy", "t", "xt", "yt", "xyt"]  # t: rows become columns, last of all


def place(number: int, row: int, col: int, side: int) -> tuple[int, int]:
    """Where a pixel, or a patch, of the frame is in a guise."""
    mirrors = MIRRORS[number]
    if "x" in mirrors:
        col = side - 1 - col
    if "y" in mirrors:
        row = side - 1 - row
    return (col, row) if "t" in mirrors else (row, col)


def disguised(number: int, frame: np.ndarray) -> np.ndarray:
    """A (3, side, side) frame in a guise."""
    side = frame.shape[-1]
    out = np.full_like(frame, np.nan)
    for channel, source in enumerate(CHANNELS[number]):
        for row in range(side):
            for col in range(side):
                at = place(number, row, col, side)
                out[(channel, *at)] = frame["rgb".index(source), row, col]
    return out


def mean_map(maps: list[np.ndarray], hidden: list[np.ndarray]) -> np.ndarray:
    """Guises' (side, side) maps on the frame's own grid, averaged where a patch was ever hidden."""
    side = len(maps[0])
    out = np.zeros((side, side))
    for row in range(side):
        for col in range(side):
            found = []
            for number, (own, known) in enumerate(zip(maps, hidden, strict=True)):
                at = place(number, row, col, side)
                if known[at]:
                    found.append(own[at])
            out[row, col] = np.mean(found) if found else 0.0
    return out
