"""The memory that training steps take, counted at torch's allocator, for what was planned to doubt.

Nothing here is shared with ``doors.memory_plan``: two optimizer steps are trained by Lightning as
train.py sets it up, with the loss that the config picks, and every allocation is counted, those
within fused operations too, which no tracker of tensors sees.
"""

import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from omegaconf import DictConfig
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from benchmarks.shipped import Given, fresh_module, shipped_trainer

STEPS = 2  # the second finds the gradients and the optimizer's states that the first one left


class Weighed(L.Callback):
    """``peak``: the most bytes that a process on a CPU held in its first steps."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        if trainer.fit_loop.total_batch_idx > 0:
            return
        models = [pl_module]
        models += [c._average_model for c in trainer.callbacks if isinstance(c, WeightAveraging)]
        before = (p for model in models for p in (*model.parameters(), *model.buffers()))
        self.before = stored_bytes(before)
        gc.collect()  # what was left over from building must not be seen to go
        self.seen = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.seen.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == STEPS:
            self.seen.stop()
            self.peak = self.before + allocated_peak(self.seen)
            trainer.should_stop = True


def true_peak(cfg: DictConfig, batch: dict[str, Any], folder: Path) -> int:
    """Bytes at the fullest moment of two optimizer steps on ``batch``; the frames do not count."""
    weighed = Weighed()
    module = fresh_module(cfg, folder)
    trainer = shipped_trainer(cfg, folder, weighed)
    trainer.fit(module, DataLoader(Given(batch), batch_size=None))
    return weighed.peak


def allocated_peak(seen: profile) -> int:
    """The most bytes that a profile with memory saw handed out at a time."""
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def stored_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the memory behind these tensors, shared memory once."""
    stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(stores.values())
