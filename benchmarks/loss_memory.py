"""Peak memory of one loss, forward and backward: what torch's CPU allocator hands out at a time."""

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.memory_truth import allocated_peak
from lras.loss import LossConfig, content_cross_entropy


def loss_peak(cfg: LossConfig, rows: int, vocab: int, dim: int) -> tuple[int, float]:
    """Bytes above the hidden states and weights, their gradients included; and the loss.

    Counted at the allocator, so what a fused operation takes inside counts too.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, dim, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, dim, generator=generator).div_(dim**0.5).requires_grad_()
    targets = torch.randint(vocab, (rows,), generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss = content_cross_entropy(hidden, weight, targets, cfg).mean()
        loss.backward()
    return allocated_peak(seen), loss.item()
