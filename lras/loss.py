"""Cross entropy over content rows only, in chunks when the logits would be large."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 64 * 2**20  # logits held at a time; 256 MB in float32


def content_cross_entropy(
    hidden: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, " rows"],
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Float[Tensor, " rows"]:
    """Negative log-likelihood of each row's target, in nats, float32.

    ``hidden`` must already hold the rows to score and no others. The logits of one chunk exist at
    a time: they are recomputed in the backward pass.
    """
    rows = max(1, chunk_elements // len(weight))
    if len(hidden) <= rows:
        return _nll(hidden, weight, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(_nll, h, weight, t, use_reentrant=False) for h, t in parts])


def _nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
