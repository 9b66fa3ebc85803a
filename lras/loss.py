"""Cross entropy over content rows only, without ever holding all logits where they would be many.

Every way to compute it gives the same nats and gradients up to rounding; ``LossConfig.impl`` says
which is used, and ``naive`` is the definition of the others.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 32 * 2**20  # logits held at a time; 128 MB in float32
FEW_CHUNKS = 4  # whose gradients ``auto`` lets torch add up in half precision

Impl = Literal["auto", "native", "chunked", "naive", "liger"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How nats per code and their gradients are computed.

    ``auto`` is ``naive`` where the logits are few; else ``native``, torch's own linear cross
    entropy in chunks, where torch has it; else ``chunked``, with logits computed twice. Under
    autocast ``native`` adds up the chunks' gradients of the weights in half precision, so that
    their error grows with the chunks; ``chunked`` adds them up in float32, and is what ``auto``
    takes there from more than ``FEW_CHUNKS`` on.
    """

    impl: Impl = "auto"
    z_weight: float = 0.0  # of the squared log of the softmax's denominator, in gradients only
    chunk_elements: int = CHUNK_ELEMENTS  # logits held at a time

    def __post_init__(self) -> None:
        if self.impl not in get_args(Impl):
            raise ValueError(
                f"loss.impl={self.impl!r} is none of {', '.join(get_args(Impl))}; leave it at auto."
            )
        if self.z_weight < 0 or self.chunk_elements < 1:
            raise ValueError(
                f"got loss.z_weight={self.z_weight} and loss.chunk_elements={self.chunk_elements}; "
                f"expected at least 0 and at least 1."
            )


def content_cross_entropy(
    hidden: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, " rows"],
    cfg: LossConfig | None = None,
) -> Float[Tensor, " rows"]:
    """Negative log-likelihood of each row's target, in nats, float32 (float64 stays float64).

    ``hidden`` must already hold the rows to score and no others. With a z weight the values stay
    nats; the penalty is in their gradients alone. Where gradients are wanted, ``native`` rounds the
    values (not what goes into gradients) to the format of the products, bfloat16 under autocast,
    and every row of ``liger`` holds the mean over the rows, penalty included: it has no others.

    Source:
        The z penalty: Chowdhery et al. 2022, arXiv:2204.02311, section 5.
    """
    cfg = cfg or LossConfig()
    halved = format_of_products(weight) != weight.dtype
    impl = impl_for(cfg, len(hidden) * len(weight), halved)
    if not torch.is_grad_enabled():  # the exact rows, and nothing is computed twice
        return _chunked(hidden, _as_autocast(weight), targets, cfg.chunk_elements)
    if impl == "liger":
        return _liger(hidden, weight, targets, cfg.z_weight)
    nats = ROWS[impl](hidden, weight, targets, cfg.chunk_elements)
    if not cfg.z_weight:
        return nats
    # The log of the denominator without the denominator: nats = log_sum - logit of the target.
    log_sum = nats + (hidden * weight[targets]).to(nats.dtype).sum(-1)
    penalty = cfg.z_weight * log_sum.square()
    return nats + (penalty - penalty.detach())  # subtle: adds 0, and the gradient of the penalty


def impl_for(cfg: LossConfig, elements: int, halved: bool = False) -> Impl:
    """What computes this many logits; never ``auto``. ``halved``: products in half precision.

    Raises:
        ValueError: ``native`` is asked for and this torch has none.
    """
    if cfg.impl != "auto":
        check_native(cfg.impl)
        return cfg.impl
    if elements <= cfg.chunk_elements:
        return "naive"
    many = elements > FEW_CHUNKS * cfg.chunk_elements
    return "native" if has_native() and not (halved and many) else "chunked"


def check_available(impl: Impl, device: str) -> None:
    """Raise ValueError where ``impl`` cannot run on a device of this type, or not at all."""
    check_native(impl)
    if impl != "liger":
        return
    if find_spec("liger_kernel") is None:
        raise ValueError(
            "loss.impl=liger needs the package liger-kernel, which is not installed; install it, "
            "or set loss.impl=auto."
        )
    if device != "cuda":
        raise ValueError(f"loss.impl=liger runs on a GPU, got {device}; set loss.impl=auto.")


def check_native(impl: Impl) -> None:
    """Raise ValueError where ``native`` is asked for and this torch has none."""
    if impl == "native" and not has_native():
        raise ValueError(
            f"loss.impl=native needs a torch whose F.linear_cross_entropy takes options, got torch "
            f"{torch.__version__}; set loss.impl=chunked."
        )


def has_native() -> bool:
    """Whether torch's own linear cross entropy can work in chunks."""
    function = getattr(F, "linear_cross_entropy", None)
    return function is not None and "options" in inspect.signature(function).parameters


def _naive(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_elements: int = 0) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, reduction="none")


def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_elements: int) -> Tensor:
    rows = max(1, chunk_elements // len(weight))
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(_chunk, h, weight, t, use_reentrant=False) for h, t in parts])


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """subtle: every chunk casts the weights for itself, and so adds to a gradient in float32.

    Autocast casts once for all of them, and their gradients would be added up in its format.
    """
    return _naive(_as_autocast(hidden), _as_autocast(weight), targets)


def _native(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_elements: int) -> Tensor:
    hidden, weight = _as_autocast(hidden), _as_autocast(weight)
    rows = max(1, chunk_elements // len(weight))
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
    nats = F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options)
    return nats if nats.dtype == torch.float64 else nats.float()


def _liger(hidden: Tensor, weight: Tensor, targets: Tensor, z_weight: float) -> Tensor:
    """Liger's fused kernel, summed; its gradients are accumulated in float32.

    Raises:
        ValueError: the kernel is not installed, or the rows do not lie on a GPU.
    """
    check_available("liger", hidden.device.type)
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    kernel = LigerFusedLinearCrossEntropyLoss(
        lse_square_scale=z_weight, reduction="sum", accum_dtype=torch.float32
    )
    total = kernel(_as_autocast(weight), _as_autocast(hidden), targets)
    return (total.float() / len(targets)).expand(len(targets))


def format_of_products(value: Tensor) -> torch.dtype:
    """The number format that autocast, where it is on, would give a matrix product."""
    device = value.device.type
    if value.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return value.dtype  # on meta there is no autocast to ask
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype


def _as_autocast(value: Tensor) -> Tensor:
    return value.to(format_of_products(value))


ROWS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "naive": _naive,
    "chunked": _chunked,
    "native": _native,
}
