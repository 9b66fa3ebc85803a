"""Callbacks that stop or break a training at a given step; named by tests on the command line."""

import builtins
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L


class StopAt(L.Callback):
    """Ends the fit cleanly after so many steps, as a time limit would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step == self.step


class FailAt(L.Callback):
    """Raises ``error`` on one rank, in the middle of a step; "KILL" kills the process instead.

    When that was, by the clock that all processes of a machine share, stands in ``died_at_s``.
    """

    def __init__(self, step: int, rank: int, error: str = "RuntimeError") -> None:
        self.step, self.rank, self.error = step, rank, error

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) != (self.step, self.rank):
            return
        (Path(trainer.default_root_dir) / "died_at_s").write_text(str(time.monotonic()))
        if self.error == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise getattr(builtins, self.error)("broken on purpose")


class SignalAt(L.Callback):
    """Sends a signal to the process of one rank at the end of a step, as SLURM would."""

    def __init__(self, step: int, rank: int, name: str = "SIGTERM") -> None:
        self.step, self.rank, self.name = step, rank, name

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), signal.Signals[self.name])
