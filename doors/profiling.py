"""A torch trace of a few training steps, on request."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

log = logging.getLogger("train")


class TraceSteps(L.Callback):
    """Writes ``trace.json.gz`` into the run's folder, and beside it what took the most time.

    ``start``: optimizer steps that this process takes before, also where it resumes a run.
    """

    def __init__(self, start: int = 20, steps: int = 5) -> None:
        if start < 0 or steps < 1:
            raise ValueError(f"got start={start} and steps={steps}; trace at least one step.")
        self.start, self.steps = start, steps
        self.running: profile | None = None
        self.written = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first = trainer.global_step + self.start

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_index: int
    ) -> None:
        due = trainer.global_step == self.first
        if due and trainer.is_global_zero and self.running is None and not self.written:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.running = profile(activities=[ProfilerActivity.CPU, *cuda], profile_memory=True)
            self.running.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any
    ) -> None:
        if self.running is not None and trainer.global_step >= self.first + self.steps:
            self._write(Path(trainer.default_root_dir))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.running is not None:  # the run was shorter than the trace
            self._write(Path(trainer.default_root_dir))
        elif trainer.is_global_zero and not self.written:
            log.warning(
                "nothing was traced: this training took %d steps and a trace begins after %d; set "
                "callbacks.profile.start to fewer",
                trainer.global_step - self.first + self.start,
                self.start,
            )

    def _write(self, folder: Path) -> None:
        self.running.stop()
        self.running.export_chrome_trace(str(folder / "trace.json.gz"))
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = self.running.key_averages().table(sort_by=key, row_limit=40)
        (folder / "trace.txt").write_text(table + "\n")
        self.running, self.written = None, True
