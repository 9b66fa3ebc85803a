"""Flow in ``.pfm`` files, as FlyingThings3D stores it: three channels, bottom row first."""

import re

import numpy as np

HEADER = re.compile(rb"(P[Ff])\s+(\d+)\s+(\d+)\s+(\S+)\s")
MAX_SIDE = 100_000  # px; more than that in a header is noise


def decode_pfm(content: bytes) -> np.ndarray:
    """(2, H, W) float32: channels 0 and 1; the third is empty.

    Raises:
        ValueError: what is wrong with the content, to be put behind the file's name.
    """
    header = HEADER.match(content)
    if header is None:
        raise ValueError("does not begin as a .pfm file: PF, width, height and scale")
    kind, width, height = header[1], int(header[2]), int(header[3])
    if kind != b"PF":
        raise ValueError("is gray (Pf); flow is in files of three channels (PF)")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"states a size of {width}x{height} px; the file is damaged")
    try:
        scale = float(header[4])
    except ValueError:
        scale = 0.0
    if not abs(scale) > 0:
        raise ValueError(f"states a scale of {header[4].decode('ascii', 'replace')}, not a number")
    expected = header.end() + 12 * width * height
    if len(content) != expected:
        raise ValueError(
            f"has {len(content)} bytes, but {width}x{height} px take {expected}; the file is cut "
            "off or damaged"
        )
    kind = "<f4" if scale < 0 else ">f4"
    values = np.frombuffer(content, kind, offset=header.end()).reshape(height, width, 3)
    return np.moveaxis(values[::-1, :, :2], -1, 0).astype(np.float32)


def encode_pfm(flow: np.ndarray) -> bytes:
    """What ``decode_pfm`` reads: (2, H, W) as little-endian float32 beside an empty channel."""
    _, height, width = flow.shape
    values = np.zeros((height, width, 3), "<f4")
    values[..., :2] = np.moveaxis(flow, 0, -1)[::-1]
    return f"PF\n{width} {height}\n-1.0\n".encode() + values.tobytes()
