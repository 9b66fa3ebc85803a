"""Frames as OpenCV's optical flows take them: gray, 8 bits, as an array."""

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor


def gray(frame: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width"]:
    """Brightness in [0, 255] of RGB in [0, 1], weighted as OpenCV does (BT.601)."""
    pixels = (frame.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return cv2.cvtColor(rearrange(pixels, "c h w -> h w c"), cv2.COLOR_RGB2GRAY)
