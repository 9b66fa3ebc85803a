"""An exponential moving average of the weights, kept where the weights are."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightEMA(EMAWeightAveraging):
    """Lightning's, moved to the module's device: it is made before the module gets there.

    subtle: it moves the average towards the weights by a share of their difference. Lightning's
    sum of two shares rounds, and what never changes, the frozen quantizer, would drift away.
    """

    def __init__(self, decay: float = 0.999, **options: Any) -> None:
        super().__init__(decay=decay, **options)
        del self._kwargs["avg_fn"]
        self._kwargs["multi_avg_fn"] = get_ema_multi_avg_fn(decay)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average_model is not None:
            self._average_model.to(pl_module.device)
        super().on_train_start(trainer, pl_module)
