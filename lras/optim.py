"""Parameter groups, Muon with its AdamW fallback, and the warmup-stable-decay schedule."""

import torch
from timm.optim.muon import Muon
from torch import nn
from torch.optim import Optimizer


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices inside blocks (for Muon) and everything else (for AdamW)."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        in_block = name.startswith("blocks.") and parameter.ndim == 2
        (matrices if in_block else rest).append(parameter)
    return matrices, rest


def muon(
    model: nn.Module, lr: float = 0.02, adamw_lr: float = 0.001, weight_decay: float = 0.0
) -> Optimizer:
    """Muon on block matrices, AdamW on embeddings, norms and heads, in one optimizer.

    Source:
        K. Jordan et al. 2024, "Muon: an optimizer for hidden layers"; implementation of timm.
    """
    matrices, rest = split_parameters(model)
    return Muon(
        [
            {"params": matrices, "lr": lr, "weight_decay": weight_decay},
            {"params": rest, "lr": adamw_lr, "weight_decay": 0.0, "use_fallback": True},
        ],
        momentum=0.95,
        nesterov=True,
        adjust_lr_fn="original",
        betas=(0.9, 0.98),
    )


def adamw(model: nn.Module, lr: float = 3e-4, weight_decay: float = 0.1) -> Optimizer:
    """AdamW; weight decay on block matrices only."""
    matrices, rest = split_parameters(model)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))


def warmup_stable_decay(step: int, warmup: int, decay_start: int, total: int) -> float:
    """Learning rate factor: linear rise, plateau at 1, linear fall to 0 at ``total`` steps.

    >>> [warmup_stable_decay(s, warmup=2, decay_start=4, total=6) for s in range(6)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    if step < decay_start:
        return 1.0
    return max(0.0, (total - step) / max(1, total - decay_start))
