"""Which weights a probe looks at, and how to look without leaving a trace."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.distributed.tensor import DTensor

Weights = Literal["raw", "ema"]


@contextmanager
def probed_model(
    trainer: L.Trainer, pl_module: L.LightningModule, weights: Weights
) -> Iterator[nn.Module]:
    """The model to trace: in eval mode, float32, whole on every rank, no gradients, no autocast.

    Weights that are whole and float32 are used where they lie; sharded ones are gathered by
    ``pl_module.whole_next_frame()`` (all ranks must take part), others are copied. Modes of all
    modules are put back afterwards.

    Raises:
        ValueError: ``weights="ema"`` and no callback of the trainer averages weights.
    """
    module = pl_module if weights == "raw" else averaged_module(trainer)
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        # Full precision whatever the trainer's: a KL of 1e-4 nats is nothing to bfloat16.
        with torch.no_grad(), torch.autocast(pl_module.device.type, enabled=False):
            if any(isinstance(p, DTensor) for p in module.parameters()):
                model = module.whole_next_frame()
            else:
                model = module.next_frame()
            if any(p.dtype != torch.float32 for p in model.parameters() if p.is_floating_point()):
                model = copy.deepcopy(model).float()
            yield model.eval()
    finally:
        for part, was_training in training.items():
            part.training = was_training


def averaged_module(trainer: L.Trainer) -> L.LightningModule:
    """The averaged twin of the module that Lightning's WeightAveraging callback keeps."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            return callback._average_model.module
    raise ValueError(
        "the probe is to look at averaged weights but nothing averages them; add callbacks/ema to "
        "the run (callbacks=[ema,default]) or set callbacks.probe.weights=raw."
    )
