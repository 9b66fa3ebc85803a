"""One image file to an RGB frame in [0, 1]."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

SIXTEEN_BIT = 65535.0


def read_image(path: str | Path) -> Float[Tensor, "3 height width"]:
    """The picture, turned upright as its EXIF note says; gray becomes three equal channels.

    16-bit gray keeps its levels; of 16-bit color the upper 8 bits are read. An alpha channel is
    dropped where nothing is transparent.

    Raises:
        ValueError: no such file, no image or one that breaks off, transparency, or floating-point
            values that are NaN or outside [0, 1].
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; pass the path of an image.")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)  # decodes all of it
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read as an image ({reason}).") from error
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_levels(path, image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            raise ValueError(f"{path} is transparent in places; save it without an alpha channel.")
    pixels = np.asarray(image.convert("RGB"))
    return torch.from_numpy(rearrange(pixels, "h w c -> c h w").copy()).float() / 255


def _from_levels(path: Path, image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Gray in 16 bits or in floating-point numbers."""
    gray = np.asarray(image).astype(np.float32)
    if image.mode != "F":
        gray = gray / np.float32(SIXTEEN_BIT)
    if not ((gray >= 0) & (gray <= 1)).all():  # False for NaN too
        bad = int((~((gray >= 0) & (gray <= 1))).sum())
        raise ValueError(
            f"{path} has {bad} values that are NaN or outside [0, 1]; save it with 8 or 16 bits."
        )
    return torch.from_numpy(repeat(gray, "h w -> c h w", c=3).copy())
