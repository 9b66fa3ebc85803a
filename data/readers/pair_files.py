"""Where the parts of one flow pair lie, and how they become a ``FlowPair``.

Every data set is a list of ``PairFiles``, made from names alone; pixels are read when asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from data.readers.flow_files import read_flow
from data.types import FlowPair


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """The files of one pair. Masks are images; what is above 127 is said of the pixel.

    ``seen_flow`` is flow known only where a pixel is in view in frame 1 (KITTI's noc). ``finer``
    says how many true vectors a pixel has along each axis: the flow file is so much larger.
    """

    name: str  # unique in its data set, without a slash
    frame0: Path
    frame1: Path
    flow: Path
    usable: Path | None = None  # mask
    unusable: Path | None = None  # mask
    occluded: Path | None = None  # mask: in view in frame 0, hidden in frame 1
    seen_flow: Path | None = None
    finer: int = 1

    def size(self) -> tuple[int, int]:
        """Height and width of the frames, from the head of frame 0 alone.

        Raises:
            ValueError: the file is missing or no image.
        """
        _check_there(self.frame0)
        try:
            with Image.open(self.frame0) as image:
                return image.height, image.width
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{self.frame0} is not a readable image; copy it again.") from error


def read_pair(files: PairFiles) -> FlowPair:
    """The pixels, flow and masks of one pair.

    Raises:
        ValueError: a file is missing or unreadable, or frames, flow and masks differ in size.
    """
    frame0, frame1 = _read_frame(files.frame0), _read_frame(files.frame1)
    size = (frame0.shape[1], frame0.shape[2])
    _check_size(files.frame1, frame1.shape[1:], size, files.frame0)
    flow, valid = read_flow(files.flow)
    stored = (files.finer * size[0], files.finer * size[1])
    _check_size(files.flow, valid.shape, stored, files.frame0, files.finer)
    finer = known = None
    if files.finer > 1:
        finer, known = _by_pixel(flow, valid, files.finer)
        flow, valid = _first_known(finer, known)
    for mask in (_mask(files.usable, size), _mask(files.unusable, size, negate=True)):
        valid = valid if mask is None else valid & mask
    return FlowPair(
        frame0=frame0,
        frame1=frame1,
        flow=flow * valid,
        valid=valid,
        visible=_visible(files, size),
        name=files.name,
        finer=finer,
        finer_known=known,
    )


def check_names(pairs: Sequence[PairFiles]) -> Sequence[PairFiles]:
    """The pairs, after a look that every frame 1 is there and that no name comes twice.

    Raises:
        ValueError: a pair whose frames or flow are missing.
    """
    for pair in pairs:
        for path in (pair.frame0, pair.frame1, pair.flow):
            _check_there(path)
    assert len({pair.name for pair in pairs}) == len(pairs)
    return pairs


def _by_pixel(
    flow: Float[Tensor, "2 fine_height fine_width"],
    valid: Bool[Tensor, "fine_height fine_width"],
    factor: int,
) -> tuple[
    Float[Tensor, "vectors 2 height width"],
    Bool[Tensor, "vectors height width"],
]:
    squares = {"y": factor, "x": factor}
    finer = rearrange(flow, "uv (h y) (w x) -> (y x) uv h w", **squares)
    return finer.contiguous(), rearrange(valid, "(h y) (w x) -> (y x) h w", **squares)


def _first_known(
    finer: Float[Tensor, "vectors 2 height width"], known: Bool[Tensor, "vectors height width"]
) -> tuple[Float[Tensor, "2 height width"], Bool[Tensor, "height width"]]:
    first = known.int().argmax(0)
    flow = finer.gather(0, first[None, None].expand(1, 2, *first.shape))[0]
    return flow, known.any(0)


def _visible(files: PairFiles, size: tuple[int, int]) -> Bool[Tensor, "height width"] | None:
    if files.seen_flow is None:
        return _mask(files.occluded, size, negate=True)
    _, seen = read_flow(files.seen_flow)
    _check_size(files.seen_flow, seen.shape, size, files.frame0)
    return seen


def _read_frame(path: Path) -> Float[Tensor, "3 height width"]:
    pixels = _read_image(path, cv2.IMREAD_COLOR_RGB)
    return torch.from_numpy(rearrange(pixels, "h w c -> c h w").copy()).float() / 255


def _mask(
    path: Path | None, size: tuple[int, int], negate: bool = False
) -> Bool[Tensor, "height width"] | None:
    if path is None:
        return None
    mask = torch.from_numpy(_read_image(path, cv2.IMREAD_GRAYSCALE))
    _check_size(path, mask.shape, size)
    return (mask > 127) ^ negate


def _read_image(path: Path, mode: int):
    _check_there(path)
    pixels = cv2.imread(str(path), mode)
    if pixels is None:
        raise ValueError(f"{path} is not a readable image; copy it again.")
    return pixels


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; complete the pair it belongs to, or leave it out.")


def _check_size(
    path: Path,
    size: Sequence[int],
    expected: tuple[int, int],
    beside: Path | None = None,
    finer: int = 1,
) -> None:
    if tuple(size) == tuple(expected):
        return
    of = "frame 0" if beside is None else beside.name
    times = "" if finer == 1 else f" times {finer}"
    height, width = expected[0] // finer, expected[1] // finer
    raise ValueError(
        f"{path} is {size[0]}x{size[1]} px (height x width), but {of} beside it is "
        f"{height}x{width}{times}; put files of one pair together."
    )
