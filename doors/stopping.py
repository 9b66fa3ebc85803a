"""When a training ends by the clock, and the checkpoint that was the best so far."""

import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger("train")

LOOK_EVERY = 10  # steps between looks at the clock where several processes have to agree


class TimeLimit(L.Callback):
    """Stops the fit at ``deadline`` (of ``time.monotonic``), after one step at least.

    Unlike Lightning's Timer it counts the time of this command, not that of the runs that it
    resumes, so that the same command can be given again and again.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.deadline == float("inf"):
            return
        if trainer.world_size > 1 and trainer.global_step % LOOK_EVERY:
            return
        if trainer.strategy.broadcast(time.monotonic() >= self.deadline):
            trainer.should_stop = True


class BestByProbe(ModelCheckpoint):
    """Keeps the best checkpoints by a score of the probe, saved at the steps that were probed.

    A ``ModelCheckpoint`` that saves at steps of its own would file them under an older score.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(every_n_train_steps=1, **options)

    def on_train_batch_end(self, trainer: L.Trainer, *hook: Any) -> None:
        if self._is_fresh(trainer):
            super().on_train_batch_end(trainer, *hook)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._is_fresh(trainer) and self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The end is not better than what it is."""

    def _is_fresh(self, trainer: L.Trainer) -> bool:
        probed = trainer.callback_metrics.get("probe/step", -1)
        return self.monitor in trainer.callback_metrics and int(probed) == trainer.global_step


def seconds_of(max_time: str | DictConfig | dict | None) -> float:
    """``trainer.max_time`` in seconds, infinite where it is null.

    Raises:
        ValueError: it is neither "days:hours:minutes:seconds" nor units of ``timedelta``.
    """
    if max_time is None:
        return float("inf")
    plain = OmegaConf.to_container(max_time) if OmegaConf.is_config(max_time) else max_time
    try:
        return Timer(plain).time_remaining()
    except (MisconfigurationException, TypeError, AttributeError) as error:
        raise ValueError(
            f"trainer.max_time={max_time} is no time; write days:hours:minutes:seconds, as in "
            f'"00:01:30:00", or {{hours: 1, minutes: 30}}.'
        ) from error
