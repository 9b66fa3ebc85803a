"""Folders of two frames and their flow, the plainest data set there is.

Each folder holds frame0.png, frame1.png and flow.flo, and optionally valid.png (above 127 = use)
and occluded.png (above 127 = in view in frame 0, hidden in frame 1).
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from data.readers.flow_files import read_flow
from data.types import FlowPair

NEEDED = ("frame0.png", "frame1.png", "flow.flo")


def read_flow_pairs(root: str | Path) -> Iterator[FlowPair]:
    """The pairs of every folder right below ``root``, sorted by name, read one at a time.

    Raises:
        ValueError: as ``find_flow_pairs`` at once, as ``read_flow_pair`` while iterating.
    """
    return map(read_flow_pair, find_flow_pairs(root))


def find_flow_pairs(root: str | Path) -> list[Path]:
    """Folders right below ``root`` with a frame0.png.

    Raises:
        ValueError: there is no such folder, or none with a pair in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"no folder {root}; pass one that holds folders of flow pairs.")
    folders = sorted(path.parent for path in root.glob("*/frame0.png"))
    if not folders:
        raise ValueError(
            f"{root} holds no flow pair; each needs a folder of its own with {', '.join(NEEDED)}."
        )
    return folders


def read_flow_pair(folder: str | Path) -> FlowPair:
    """One pair; its name is the folder's.

    Raises:
        ValueError: a file is missing or unreadable, or frames, flow and masks differ in size.
    """
    folder = Path(folder)
    frame0, frame1 = (_read_frame(folder / name) for name in NEEDED[:2])
    size = frame0.shape[1:]
    _check_size(folder / "frame1.png", frame1.shape[1:], size)
    flow, valid = read_flow(folder / "flow.flo")
    _check_size(folder / "flow.flo", valid.shape, size)
    usable, occluded = (_read_mask(folder / name, size) for name in ("valid.png", "occluded.png"))
    return FlowPair(
        frame0=frame0,
        frame1=frame1,
        flow=flow,
        valid=valid if usable is None else valid & usable,
        visible=None if occluded is None else ~occluded,
        name=folder.name,
    )


def _read_frame(path: Path) -> Float[Tensor, "3 height width"]:
    pixels = _read_image(path, cv2.IMREAD_COLOR_RGB)
    return torch.from_numpy(rearrange(pixels, "h w c -> c h w").copy()).float() / 255


def _read_mask(path: Path, size: torch.Size) -> Bool[Tensor, "height width"] | None:
    if not path.is_file():
        return None
    mask = torch.from_numpy(_read_image(path, cv2.IMREAD_GRAYSCALE))
    _check_size(path, mask.shape, size)
    return mask > 127


def _read_image(path: Path, mode: int):
    if not path.is_file():
        raise ValueError(f"{path} is missing; a flow pair needs {', '.join(NEEDED)}.")
    pixels = cv2.imread(str(path), mode)
    if pixels is None:
        raise ValueError(f"{path} is not a readable image.")
    return pixels


def _check_size(path: Path, size: torch.Size, expected: torch.Size) -> None:
    if size != expected:
        raise ValueError(
            f"{path} is {size[0]}x{size[1]} px (height x width), but frame0.png beside it is "
            f"{expected[0]}x{expected[1]}."
        )
