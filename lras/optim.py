"""Parameter groups, Muon with its AdamW fallback, and how the learning rate rises and falls."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

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
    """AdamW; weight decay on block matrices only. One fused update where torch has it."""
    matrices, rest = split_parameters(model)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    fused = can_fuse(model)
    return clippable(torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=fused or None))


def can_fuse(model: nn.Module) -> bool:
    """Whether updates can be fused; elsewhere, as on the meta device of a dry run, they raise."""
    return all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())


def clippable(optimizer: Optimizer) -> Optimizer:
    """``optimizer``, whose fused update leaves it to a scaler to undo the scale of gradients.

    It could undo that of float16 gradients itself, but too late to clip them, and Lightning then
    refuses to clip at all. Told that it cannot, a scaler undoes it before.
    """
    optimizer._step_supports_amp_scaling = False
    return optimizer


def warmup_stable_decay(step: int, warmup: int, decay_start: int, total: int) -> float:
    """Learning rate factor: linear rise, plateau at 1, linear fall to 0 at ``total`` steps.

    A decay that would start at the end never does: whoever goes on from there finds a stable rate.
    One that starts before the rise is done meets it on its way: the lower of the two counts.

    >>> [warmup_stable_decay(s, warmup=2, decay_start=4, total=6) for s in range(6)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """
    rise = (step + 1) / warmup if step < warmup else 1.0
    if step < decay_start or decay_start >= total:
        return rise
    return min(rise, max(0.0, (total - step) / (total - decay_start)))


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Learning rate factor: linear rise, then half a cosine from 1 to 0 at ``total`` steps.

    >>> [round(warmup_cosine(s, warmup=2, total=6), 3) for s in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * done))


Shape = Literal["stable", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over a run, as a factor of the optimizer's.

    ``stable`` stays at 1 until its decay begins: ``decay_share`` of all steps before the end, or at
    ``decay_start``, the step at which a branch left the stable run (it needs no share). Where that
    is before the ``warmup_steps`` are over, the lower of rise and fall counts.
    """

    warmup_steps: int = 30
    decay_share: float = 0.4
    shape: Shape = "stable"
    decay_start: int | None = None

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(
                f"schedule.shape={self.shape!r} is none of {', '.join(get_args(Shape))}; "
                f"choose one of these."
            )
        if not 0 <= self.decay_share <= 1 or self.warmup_steps < 0:
            raise ValueError(
                f"got schedule.decay_share={self.decay_share} and schedule.warmup_steps="
                f"{self.warmup_steps}; use a share from 0 to 1 and at least 0 steps."
            )
        if self.shape == "cosine" and self.decay_start is not None:
            raise ValueError(
                "a cosine has no stable part to branch off from; leave schedule.decay_from out, or "
                "set schedule.shape=stable."
            )

    def factor(self, step: int, total: int) -> float:
        """Of the optimizer step with this index, of ``total``."""
        if self.shape == "cosine":
            return warmup_cosine(step, self.warmup_steps, total)
        start = self.decay_start
        start = int(total * (1 - self.decay_share)) if start is None else start
        return warmup_stable_decay(step, self.warmup_steps, start, total)
