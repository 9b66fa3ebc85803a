"""Divergence between the clean and the perturbed prediction of every code, in nats."""

import torch
from jaxtyping import Float
from torch import Tensor

from tracing.config import Direction

# float64 numbers per scratch tensor. On a CPU 1 MiB stays in cache, which is ten times as fast as
# 32 MiB; elsewhere 128 MiB bounds the memory of large vocabularies.
SCRATCH_NUMBERS_CPU = 2**17
SCRATCH_NUMBERS = 2**24


def kl_map(
    clean_logits: Float[Tensor, "*batch rows cols vocab"],
    perturbed_logits: Float[Tensor, "*batch rows cols vocab"],
    direction: Direction = "clean_perturbed",
) -> Float[Tensor, "*batch rows cols"]:
    """Divergence of the predicted code at every grid position, in nats, float64, >= 0.

    Both inputs are unnormalized log-probabilities over the same content vocabulary; pointer
    entries must already be sliced off. Taken as float32 and reduced in float64: in float32 a
    log-softmax over 65,536 codes is off by 1e-6 nats. ``symmetric`` is the mean of the two
    directions, so that a threshold keeps its meaning.

    Raises:
        ValueError: the two shapes differ.

    Source:
        Kim et al. 2025, arXiv:2507.09082, KL-tracing.
    """
    if clean_logits.shape != perturbed_logits.shape:
        shapes = f"{tuple(clean_logits.shape)} and {tuple(perturbed_logits.shape)}"
        raise ValueError(f"clean and perturbed logits must have one shape, got {shapes}.")
    on_cpu = clean_logits.device.type == "cpu"
    step = max(1, (SCRATCH_NUMBERS_CPU if on_cpu else SCRATCH_NUMBERS) // clean_logits.shape[-1])
    chunks = zip(
        clean_logits.flatten(0, -2).split(step),
        perturbed_logits.flatten(0, -2).split(step),
        strict=True,
    )
    kl = torch.cat([_divergence(clean, perturbed, direction) for clean, perturbed in chunks])
    return kl.view(clean_logits.shape[:-1])


def _divergence(
    clean_logits: Float[Tensor, "n vocab"],
    perturbed_logits: Float[Tensor, "n vocab"],
    direction: Direction,
) -> Float[Tensor, " n"]:
    clean, perturbed = clean_logits.float().double(), perturbed_logits.float().double()
    if direction == "symmetric":
        # The two normalizers cancel, which saves two passes of exponentials.
        share = clean.softmax(-1) - perturbed.softmax(-1)
        return 0.5 * (share * (clean - perturbed)).sum(-1).clamp_min(0.0)
    if direction == "perturbed_clean":
        clean, perturbed = perturbed, clean
    log_p, log_q = clean.log_softmax(-1), perturbed.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0.0)
