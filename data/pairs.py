"""One pair of frames out of one sample: as pixels from a clip, as codes from a tokenized clip."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from data.shard_index import ShardIndex


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How two frames are picked from a clip."""

    min_gap: int | float = 1  # in gap_unit
    max_gap: int | float = 4  # the gap is uniform over whole frames in [min_gap, max_gap]
    crop_px: int | None = None  # square window, random in training, central in validation
    flip: bool = False  # mirror left-right half of the time (training only)
    gap_unit: str = "frames"  # or seconds: the same motion whatever a video's frame rate

    def check(self, index: ShardIndex) -> None:
        """Raise ValueError if the clips of ``index`` are too short, too small or of codes."""
        if self.gap_unit not in ("frames", "seconds"):
            raise ValueError(f"got gap_unit={self.gap_unit!r}; pass 'frames' or 'seconds'.")
        gaps = f"min_gap={self.min_gap} max_gap={self.max_gap}"
        if self.gap_unit == "seconds":
            if not 0 < self.min_gap <= self.max_gap:
                raise ValueError(f"got {gaps} seconds; need 0 < min_gap <= max_gap.")
        elif not 1 <= self.min_gap <= self.max_gap < index.clip_frames:
            raise ValueError(
                f"{gaps} do not fit clips of {index.clip_frames} frames; need 1 <= min_gap <= "
                f"max_gap < {index.clip_frames}."
            )
        elif self.min_gap % 1 or self.max_gap % 1:
            raise ValueError(f"got {gaps} frames; pass whole numbers, or gap_unit=seconds.")
        if index.kind == "tokens" and (self.crop_px is not None or self.flip):
            raise ValueError(
                f"got crop_px={self.crop_px} flip={self.flip} for codes; leave them null and "
                "false, since codes of a cropped or mirrored frame are other ones."
            )
        if self.crop_px is not None and not 1 <= self.crop_px <= index.size:
            raise ValueError(
                f"crop_px={self.crop_px} does not fit frames of {index.size} px; "
                f"pass 1 to {index.size}, or null for the whole frame."
            )

    def frames(self, fps: float, num_frames: int) -> tuple[int, int]:
        """Smallest and largest gap, in frames, of a clip at this rate; the clip bounds both.

        Where no whole number of frames makes a gap that was asked for, the nearest does.
        """
        low, high = float(self.min_gap), float(self.max_gap)
        if self.gap_unit == "seconds":
            low, high = low * fps, high * fps
        most = num_frames - 1
        first, last = math.ceil(low - 1e-6), math.floor(high + 1e-6)
        if first > last:
            first = last = round((low + high) / 2)
        return min(max(1, first), most), min(max(1, last), most)


def pick_pair(
    sample: dict[str, bytes], index: ShardIndex, pairs: PairConfig, rng: Random, is_train: bool
) -> dict[str, Any]:
    """{"frames" uint8 (2, 3, H, W) or "codes" int64 (2, rows, cols), "gap" frames, "gap_s"}.

    ``sample``: tar members by suffix. Both frames are cropped and mirrored alike. ``gap_s`` is the
    gap in seconds, NaN where the clip does not know its rate.

    Raises:
        ValueError, KeyError, TypeError, cv2.error: the sample is corrupt.
    """
    about = json.loads(sample["json"])
    num_frames, fps = int(about["num_frames"]), float(about.get("fps") or math.nan)
    if num_frames < 2:
        raise ValueError(f"it says it has {num_frames} frames; a pair takes two")
    if pairs.gap_unit == "seconds" and not math.isfinite(fps):
        raise ValueError("it does not say its frame rate")
    gap = rng.randint(*pairs.frames(fps, num_frames))
    start = rng.randrange(num_frames - gap)
    times = (start, start + gap)
    moments = about.get("times_s")  # of clips of videos whose rate may vary
    gap_s = float(moments[times[1]]) - float(moments[start]) if moments else gap / fps
    picked: dict[str, Any] = {"gap": gap, "gap_s": gap_s}
    if index.kind == "tokens":
        return picked | {"codes": _codes(sample, times)}
    both = torch.stack([_decode(sample, t, index.size) for t in times])
    if pairs.crop_px is not None:
        spare = index.size - pairs.crop_px
        top, left = [rng.randint(0, spare) if is_train else spare // 2 for _ in range(2)]
        both = both[..., top : top + pairs.crop_px, left : left + pairs.crop_px]
    if pairs.flip and is_train and rng.random() < 0.5:
        both = both.flip(-1)
    return picked | {"frames": both.contiguous()}


def _codes(sample: dict[str, bytes], times: tuple[int, int]) -> Int64[Tensor, "2 rows cols"]:
    content = sample["codes.npy"]
    length = 10 + int.from_bytes(content[8:10], "little")
    shape, dtype = _npy_header(content[:length])
    codes = np.frombuffer(content, dtype, offset=length).reshape(shape)
    if codes.dtype != np.uint16 or codes.ndim != 3 or len(codes) <= times[1]:
        raise ValueError(f"its codes are {codes.dtype} of shape {codes.shape}")
    return torch.from_numpy(codes[list(times)].astype(np.int64))


@lru_cache(maxsize=64)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that the header of a .npy file states; samples share a few headers.

    Raises:
        ValueError: it is none, of another version than 1.0, or of an array in Fortran's order.
    """
    file = BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its codes are no .npy file of version 1.0")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if is_fortran or dtype.hasobject:
        raise ValueError(f"its codes are {dtype} in an order that is not C's")
    return shape, dtype


def _decode(sample: dict[str, bytes], t: int, size: int) -> UInt8[Tensor, "3 size size"]:
    names = [f"{t:03d}.{suffix}" for suffix in ("jpg", "png")]
    encoded = next((sample[name] for name in names if name in sample), None)
    if encoded is None:
        raise ValueError(f"frame {t} is not there")
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise ValueError(f"frame {t} is no readable image")
    if pixels.shape[:2] != (size, size):
        height, width = pixels.shape[:2]
        raise ValueError(f"frame {t} is {height}x{width} px, the index says {size}x{size}")
    return torch.from_numpy(rearrange(pixels, "h w c -> c h w").copy())
