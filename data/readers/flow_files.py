"""Files of optical flow: ``.flo``, ``.pfm``, ``.flo5``, KITTI 16-bit ``.png``, ``.npy``, ``.npz``.

In memory a field is (2, H, W): (u, v) in pixels, u to the right, v down. Where it is unknown (NaN
or above 1e9, as Middlebury marks it) ``valid`` is False and the flow 0.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from data.index import write_whole
from data.readers.flo5_files import decode_flo5, encode_flo5
from data.readers.pfm_files import decode_pfm, encode_pfm

FLO_MAGIC = 202021.25  # "PIEH" in little-endian float32
FLO_HEADER_BYTES = 12
MAX_KNOWN = 1e9
UNKNOWN = 1e10
MAX_SIDE = 100_000  # px; more than that in a header is noise
KITTI_UNIT = 64.0  # stored steps per pixel, around 2^15
KITTI_ZERO = 2**15


def read_flow(
    path: str | Path,
) -> tuple[Float[Tensor, "2 height width"], Bool[Tensor, "height width"]]:
    """Flow and where it is known; the format is told by the suffix.

    ``.npy`` holds (2, H, W) or (H, W, 2); ``.npz`` the same as ``flow``, and optionally ``valid``.

    Raises:
        ValueError: no such file, a suffix not listed above, or content that is not of its format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no flow file {path}; check the path.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is of no known flow format; known: {' '.join(_READERS)}.")
    flow, valid = reader(path)
    known = valid & (np.abs(flow) <= MAX_KNOWN).all(0)  # False for NaN too
    flow = np.where(known, flow, 0).astype(np.float32)
    return torch.from_numpy(flow), torch.from_numpy(known)


def write_flow(
    path: str | Path,
    flow: Float[Tensor, "2 height width"],
    valid: Bool[Tensor, "height width"] | None = None,
) -> None:
    """Write by suffix what ``read_flow`` reads; KITTI rounds to 1/64 px and spans +-512 px."""
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"{path} is of no known flow format; known: {' '.join(_WRITERS)}.")
    field = flow.detach().cpu().float().numpy()
    known = np.ones(field.shape[1:], bool) if valid is None else valid.cpu().numpy()
    write_whole(path, writer(path, field, known))


def _read_flo(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = path.read_bytes()
    if len(content) < FLO_HEADER_BYTES:
        raise ValueError(
            f"{path} has {len(content)} bytes, too few for a .flo header; copy it again."
        )
    magic = np.frombuffer(content, "<f4", 1)[0]
    if magic != np.float32(FLO_MAGIC):
        raise ValueError(
            f"{path} is no .flo file: it begins with {magic}, not {FLO_MAGIC}; "
            "save it again as .flo, or rename it."
        )
    width, height = (int(side) for side in np.frombuffer(content, "<i4", 2, offset=4))
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"{path} states a size of {width}x{height} px; the file is damaged.")
    expected = FLO_HEADER_BYTES + 8 * width * height
    if len(content) != expected:
        raise ValueError(
            f"{path} has {len(content)} bytes, but {width}x{height} px take {expected}; "
            "the file is cut off or damaged."
        )
    values = np.frombuffer(content, "<f4", offset=FLO_HEADER_BYTES).reshape(height, width, 2)
    return rearrange(values, "h w uv -> uv h w"), np.ones((height, width), bool)


def _write_flo(_: Path, flow: np.ndarray, valid: np.ndarray) -> bytes:
    height, width = valid.shape
    values = np.where(valid, flow, UNKNOWN).astype("<f4")
    header = (
        np.float32(FLO_MAGIC).astype("<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    )
    return header + np.ascontiguousarray(rearrange(values, "uv h w -> h w uv")).tobytes()


def _read_kitti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3 or stored.shape[2] != 3:
        raise ValueError(f"{path} is no KITTI flow; expected a 16-bit PNG of three channels.")
    valid, v, u = rearrange(stored, "h w bgr -> bgr h w").astype(np.float32)
    return (np.stack([u, v]) - KITTI_ZERO) / KITTI_UNIT, valid > 0


def _write_kitti(path: Path, flow: np.ndarray, valid: np.ndarray) -> bytes:
    stored = np.round(np.where(valid, flow, 0).astype(np.float64) * KITTI_UNIT) + KITTI_ZERO
    if not ((stored >= 0) & (stored < 2**16)).all():
        raise ValueError(
            f"{path}: KITTI files hold flow within +-512 px; write a .flo file instead."
        )
    u, v = np.where(valid, stored, 0).astype(np.uint16)
    pixels = np.stack([valid.astype(np.uint16), v, u], axis=-1)  # OpenCV writes BGR
    return cv2.imencode(".png", pixels)[1].tobytes()


def _read_pfm(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return _decoded(path, decode_pfm)


def _write_pfm(_: Path, flow: np.ndarray, valid: np.ndarray) -> bytes:
    return encode_pfm(np.where(valid, flow, np.float32(UNKNOWN)))


def _read_flo5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return _decoded(path, decode_flo5)


def _write_flo5(path: Path, flow: np.ndarray, valid: np.ndarray) -> bytes:
    try:
        return encode_flo5(np.where(valid, flow, np.float32(np.nan)))
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error


def _decoded(path: Path, decode: Callable[[bytes], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    try:
        flow = decode(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error
    return flow, np.ones(flow.shape[1:], bool)


def _read_npy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return _load_numpy(path, lambda stored: (stored, None))


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return _load_numpy(path, lambda stored: (stored["flow"], stored.get("valid")))


def _load_numpy(path: Path, unpack) -> tuple[np.ndarray, np.ndarray]:
    try:
        flow, valid = unpack(np.load(path, allow_pickle=False))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no readable flow array ({error}).") from error
    if flow.ndim != 3 or 2 not in (flow.shape[0], flow.shape[2]) or flow.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} holds {flow.dtype} {flow.shape}; expected (2, H, W) or (H, W, 2)."
        )
    if flow.shape[0] != 2:
        flow = rearrange(flow, "h w uv -> uv h w")
    valid = np.ones(flow.shape[1:], bool) if valid is None else valid.astype(bool)
    if valid.shape != flow.shape[1:]:
        raise ValueError(f"{path} holds flow {flow.shape} but valid {valid.shape}.")
    return flow.astype(np.float32), valid


def _write_npy(_: Path, flow: np.ndarray, valid: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.where(valid, flow, np.float32(np.nan)))
    return buffer.getvalue()


def _write_npz(_: Path, flow: np.ndarray, valid: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, flow=flow, valid=valid)
    return buffer.getvalue()


_READERS = {
    ".flo": _read_flo,
    ".pfm": _read_pfm,
    ".flo5": _read_flo5,
    ".png": _read_kitti,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
_WRITERS = {
    ".flo": _write_flo,
    ".pfm": _write_pfm,
    ".flo5": _write_flo5,
    ".png": _write_kitti,
    ".npy": _write_npy,
    ".npz": _write_npz,
}
