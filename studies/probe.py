"""A probe so many times in a run, however long the run is."""

from typing import Any

import lightning as L

from tracing.probe import FlowProbe


class EvenProbe(FlowProbe):
    """``FlowProbe`` at the start, at the end and at equal distances between, whatever it costs.

    So the curves of a study have as many points each, at the same shares of their budgets.
    """

    def __init__(self, times: int, **options: Any) -> None:
        never = {"max_share": None, "at_validation_end": "never"}
        super().__init__(**options | never)
        if times < 1:
            raise ValueError(f"callbacks.probe.times={times}; probe once or more.")
        self.times = times

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.every_n_steps = max(1, trainer.max_steps // self.times)
        super().on_train_start(trainer, pl_module)
