"""Frames padded to the sides that a network takes; its answers are cropped back."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pad_frames(
    frame: Float[Tensor, "batch 3 height width"], multiple_px: int, least_px: int
) -> tuple[Float[Tensor, "batch 3 padded_height padded_width"], tuple[slice, slice]]:
    """Repeat border pixels on all sides until each is a multiple, and at least ``least_px``.

    Returns:
        The padded frames, and the rows and columns in which the frames lie in them.
    """
    height, width = frame.shape[-2:]
    top, bottom = _margins(height, multiple_px, least_px)
    left, right = _margins(width, multiple_px, least_px)
    padded = F.pad(frame, (left, right, top, bottom), mode="replicate")
    return padded, (slice(top, top + height), slice(left, left + width))


def _margins(side: int, multiple_px: int, least_px: int) -> tuple[int, int]:
    wanted = max(side, least_px)
    missing = -(-wanted // multiple_px) * multiple_px - side
    return missing // 2, missing - missing // 2
