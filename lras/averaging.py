"""An exponential moving average of the weights, kept where the weights are."""

from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """torch's, whose count of updates stays on the CPU: read on a GPU, it would stop every step.

    The average moves towards the weights by a share of their difference. subtle: a sum of two
    shares rounds, and what never changes, the frozen quantizer, would drift away.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        own = chain(self.module.parameters(), self.module.buffers())
        given = chain(model.parameters(), model.buffers())
        averaged, new = [], []
        for average, value in zip(own, given, strict=True):
            if self.n_averaged and average.is_floating_point():
                averaged.append(average)
                new.append(value)
            else:  # the first value, and what has no mean
                average.copy_(value)
        if averaged:
            torch._foreach_lerp_(averaged, new, 1 - self.decay)
        self.n_averaged += 1


class WeightEMA(EMAWeightAveraging):
    """Lightning's around ``MovingAverage``, which is made before the module gets to its device."""

    def __init__(self, decay: float = 0.999, **options: Any) -> None:
        super().__init__(decay=decay, **options)
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._average_model = MovingAverage(pl_module, self.decay)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average_model is not None:
            self._average_model.module.to(pl_module.device)
        super().on_train_start(trainer, pl_module)
