"""How fast a training goes, and a progress bar that does not slow it down."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from torch.nn.utils import get_total_norm

from lras.flops import group_tokens, peak_flops, training_flops
from lras.predictor_module import PredictorModule

GB = 1e9


class SparingProgressBar(RichProgressBar):
    """Asks the device for figures only where they are logged anyway.

    Lightning's own asks at every step, and the host then waits until the step is done.
    """

    _shown: dict[str, Any] | None = None

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        logged = not trainer.global_step % trainer.log_every_n_steps
        if self._shown is None or logged or not trainer.training:
            self._shown = super().get_metrics(trainer, pl_module)
        return self._shown


class StepClock(Profiler):
    """Seconds that Lightning spends waiting for data, and in the hooks of callbacks but ``own``.

    subtle: the meters' own hook waits until the device has done the steps that it measures. That
    is time of training, and of the window that it ends, not of the next one.
    """

    def __init__(self, own: str = "Meters") -> None:
        super().__init__(dirpath=None, filename=None)
        self.own = f"[Callback]{own}."
        self.data_s = self.callbacks_s = 0.0
        self.nested = 0  # callbacks are timed as a whole, validation and its callbacks as one
        self._started: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        self._started[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        spent = time.perf_counter() - self._started.pop(action_name, time.perf_counter())
        if action_name.startswith(self.own):
            return
        if action_name.startswith("[Callback]") and not self.nested:
            self.callbacks_s += spent
        elif action_name.endswith("_next") and "train" in action_name:
            self.data_s += spent


class Meters(L.Callback):
    """Logs, where Lightning logs: ``speed/`` tokens_per_s, samples_per_s, data_wait (share of the
    time), memory_gb, and with a known peak mfu_causal and mfu_full_square; ``train/grad_norm``.

    Per process, over the steps since the last figures. Not counted as time: validation, and the
    hooks of callbacks (probes, checkpoints, pictures). ``peak``: dense bfloat16 FLOP/s of the
    device, where its name is not in ``lras.flops.PEAK_FLOPS``. Nothing is asked of the device
    between two logged steps but at both ends of a validation.
    """

    def __init__(self, peak: float | None = None) -> None:
        self.peak, self.logged = peak, 0
        self._reset()

    def _reset(self) -> None:
        self.samples = self.tokens = 0
        self.flops = {"causal": 0, "full_square": 0}
        self.since, self.away_s = time.perf_counter(), 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Another profiler was asked for: without our clock callbacks count as training.
        self.clock = StepClock(self.state_key)
        if isinstance(trainer.profiler, PassThroughProfiler):
            trainer.profiler = self.clock
        if self.peak is None and pl_module.device.type == "cuda":
            self.peak = peak_flops(torch.cuda.get_device_name(pl_module.device))
        self.logged = trainer.global_step
        self._reset()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        wait_for(pl_module.device)  # or training that is queued would count as validation
        self.clock.nested += 1
        self._left = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        wait_for(pl_module.device)
        self.clock.nested -= 1
        self.away_s += time.perf_counter() - self._left

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """The norm of all gradients, before they are clipped."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps:
            return
        norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        # Of sharded gradients every rank holds a part of the sum.
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        pl_module.log("train/grad_norm", norm)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: PredictorModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_index: int,
    ) -> None:
        self._count(pl_module, batch)
        step = trainer.global_step
        if step == self.logged or step % trainer.log_every_n_steps:
            return  # the first of accumulated batches still sees the step before
        self.logged = step
        wait_for(pl_module.device)
        spent = time.perf_counter() - self.since - self.away_s - self.clock.callbacks_s
        figures = {
            "tokens_per_s": self.tokens / spent,
            "samples_per_s": self.samples / spent,
            "data_wait": self.clock.data_s / spent,
            "memory_gb": peak_memory(pl_module.device) / GB,
        }
        if self.peak:
            figures |= {f"mfu_{k}": v / spent / self.peak for k, v in self.flops.items()}
        pl_module.log_dict({f"speed/{name}": float(value) for name, value in figures.items()})
        self._reset()
        self.clock.data_s = self.clock.callbacks_s = 0.0

    def _count(self, pl_module: PredictorModule, batch: dict[str, Any]) -> None:
        """Sizes alone are looked at."""
        cfg = pl_module.predictor.cfg
        pairs, placed, kept = pl_module.sizes_of(batch)
        columns = cfg.num_codes if cfg.tied_head else pl_module.predictor.head.out_features
        self.samples += pairs
        self.tokens += pairs * (placed * group_tokens(cfg, 0) + kept * group_tokens(cfg, 1))
        for name in self.flops:
            full = name == "full_square"
            self.flops[name] += pairs * training_flops(cfg, placed, kept, columns, full)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was asked for; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: handed out by torch on a GPU, resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
