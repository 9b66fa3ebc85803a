"""Flow in ``.flo5`` files, as Spring stores it: HDF5 with one array, ``flow``. Needs h5py."""

import io
from types import ModuleType

import numpy as np

LEVEL = 5  # of gzip; Spring's own files are compressed, too


def decode_flo5(content: bytes) -> np.ndarray:
    """(2, H, W) float32; NaN where Spring knows no flow.

    Raises:
        ValueError: what is wrong with the content, to be put behind the file's name.
    """
    h5py = _h5py()
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            stored = file["flow"]
            if not isinstance(stored, h5py.Dataset) or stored.dtype.kind != "f":
                raise KeyError("flow is no array of floating-point numbers")
            if stored.ndim != 3 or stored.shape[2] != 2 or not stored.size:
                raise KeyError(f"flow is {stored.shape}, not (height, width, 2)")
            return np.moveaxis(stored[()], -1, 0).astype(np.float32)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error).splitlines()[0]
        raise ValueError(f"is no readable .flo5 file ({reason})") from error


def encode_flo5(flow: np.ndarray) -> bytes:
    """What ``decode_flo5`` reads, from (2, H, W)."""
    buffer = io.BytesIO()
    with _h5py().File(buffer, "w") as file:
        values = np.moveaxis(flow, 0, -1).astype(np.float32)
        file.create_dataset("flow", data=values, compression="gzip", compression_opts=LEVEL)
    return buffer.getvalue()


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ValueError("is HDF5, which needs h5py: pip install h5py") from error
    return h5py
