"""How a predictor's blocks run in training: as they are, compiled, recomputed in the backward pass.

All of it changes time and memory and no value beyond rounding. What is set here reaches training
and validation (``FramePredictor.forward``) alone: tracing asks for sequences of so many lengths
that compiling them would cost more than it saves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

RunBlock = Callable[[nn.Module, Tensor, tuple[Tensor, Tensor] | None], Tensor]
MODES = {"compile": ("block", "whole", False), "recompute": ("none", "block", "selective")}

aten = torch.ops.aten
# Dear to compute again, cheap to keep: products of matrices, and attention with its statistics.
KEPT = {
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}


@dataclass(frozen=True, kw_only=True)
class Running:
    """What ``schedule`` says of the step.

    ``recompute``: of a block's activations ``none`` are computed again in the backward pass; all of
    them, so that only a block's input is kept (``block``); or all but the results of matrix
    products and attention (``selective``).
    """

    compile: Literal["block", "whole"] | bool = False
    recompute: Literal["none", "block", "selective"] = "none"

    def __post_init__(self) -> None:
        if self.compile is True:
            object.__setattr__(self, "compile", "block")
        for name, known in MODES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"schedule.{name}={getattr(self, name)} is none of "
                    f"{', '.join(str(each).lower() for each in known)}; choose one of these."
                )


def run_block(block: nn.Module, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    """A causal pass of a block without its keys and values, which would be kept for all blocks."""
    return block(x, rotation)[0]


def block_runner(running: Running) -> RunBlock:
    """What ``FramePredictor.run_block`` should be.

    One function for all blocks, not one for each: a copy of the network then runs its own weights.
    """
    run: RunBlock = run_block
    if running.recompute != "none":
        run = partial(recomputed, selective=running.recompute == "selective")
    # Around the recomputation and not inside it: a compiled graph shows no products to keep.
    return torch.compile(run, dynamic=False) if running.compile == "block" else run


def recomputed(
    block: nn.Module,
    x: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    selective: bool,
) -> Tensor:
    """``run_block`` whose activations are computed again when the backward pass wants them."""
    if not torch.is_grad_enabled():
        return run_block(block, x, rotation)
    contexts = partial(create_selective_checkpoint_contexts, keep_products)
    extra = {"context_fn": contexts} if selective else {}
    # Blocks draw nothing at random, so there is no random state to put back.
    return checkpoint(
        run_block, block, x, rotation, use_reentrant=False, preserve_rng_state=False, **extra
    )


def keep_products(context: object, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    """Keep what is in ``KEPT``; compute all else again."""
    kept = op in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
