"""Whatever turns frames into codes, by the name its owner gives it."""

from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from jaxtyping import Float, Int
from torch import Tensor, nn

MAX_CODES = 2**16  # what uint16 tells apart
OUR_LOADER = "lras.checkpoint.load_quantizer"  # by its name: data imports nothing of ours


class Encoder:
    """An encoder and where it runs.

    Wraps anything with ``encode``, float (batch, 3, height, width) in [0, 1] to integers (batch,
    rows, cols), and ``fingerprint()``. ``num_codes`` is its own or its ``cfg``'s; None if it does
    not say.
    """

    def __init__(self, inner: Any, device: str = "cpu") -> None:
        self.inner = inner.eval().to(device) if isinstance(inner, nn.Module) else inner
        self.device = device
        about = inner if hasattr(inner, "num_codes") else getattr(inner, "cfg", None)
        self.num_codes: int | None = getattr(about, "num_codes", None)

    def fingerprint(self) -> str:
        return str(self.inner.fingerprint())

    @torch.inference_mode()
    def encode(
        self, frames: Float[Tensor, "batch 3 height width"]
    ) -> Int[Tensor, "batch rows cols"]:
        """The code of every cell, on the CPU.

        Raises:
            ValueError: the codes have another shape, are no integers or do not fit uint16.
        """
        codes = torch.as_tensor(self.inner.encode(frames.to(self.device))).cpu()
        if codes.ndim != 3 or len(codes) != len(frames) or codes.is_floating_point():
            raise ValueError(
                f"the encoder made {codes.dtype} {tuple(codes.shape)} of {len(frames)} frames, "
                f"expected integers ({len(frames)}, rows, cols); wrap it in a class that does."
            )
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= MAX_CODES:
            raise ValueError(
                f"the encoder made codes {low} to {high}, but token shards hold uint16; expected "
                f"0 to {MAX_CODES - 1}: take an encoder with fewer codes."
            )
        return codes


def load_encoder(config: Any, device: str = "cpu") -> Encoder:
    """The encoder of a path (ours) or of a {"_target_": ..., ...} (anyone's).

    Raises:
        ValueError: there is none, or it cannot encode and tell its fingerprint.
    """
    try:
        if isinstance(config, str | Path):
            inner = get_method(OUR_LOADER)(config)
        else:
            inner = instantiate(config)
    except FileNotFoundError as error:
        raise ValueError(f"encoder={config}: {error}") from error
    except (InstantiationException, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"encoder={config} cannot be made ({reason}); pass a run folder or "
            f"encoder._target_=package.Class with its arguments."
        ) from error
    lacking = [n for n in ("encode", "fingerprint") if not callable(getattr(inner, n, None))]
    if lacking:
        raise ValueError(
            f"encoder={config} is a {type(inner).__name__} without {' and '.join(lacking)}(); "
            f"expected encode(frames) and fingerprint()."
        )
    return Encoder(inner, device)
