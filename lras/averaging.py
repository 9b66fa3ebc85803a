"""An exponential moving average of the weights, kept where the weights are."""

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging


class WeightEMA(EMAWeightAveraging):
    """Lightning's, moved to the module's device: it is made before the module gets there."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average_model is not None:
            self._average_model.to(pl_module.device)
        super().on_train_start(trainer, pl_module)
