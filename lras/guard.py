"""StepGuard: a step whose loss or gradient is not a number, or a spike, leaves no trace.

Judged and undone on the device: the host hears of a step one step later and never waits for it.
Every rank judges the same two numbers, so all come to the same answer.
"""

import functools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lras.undo import Undone, parts_of

log = logging.getLogger(__name__)


class StepGuard(L.Callback):
    """Skips bad steps, goes back to the last checkpoint after many in a row, and then gives up.

    A step is bad if its loss (mean over ranks) or gradient norm (before clipping) is not finite,
    or larger than ``loss_factor`` or ``norm_factor`` times its mean over about the last
    ``memory_steps`` good steps; None leaves a factor out, and until ``memory_steps`` good steps
    have been seen there is nothing to compare with. A skipped step leaves weights and optimizer
    state as they were; schedule and data go on, so the batch is passed over.

    Going back puts in place the weights, their average and the optimizer state of the checkpoint
    ``last``; schedule and data go on here too, or the same batches would come again. The means are
    forgotten, so that what only became harder (a new stage) is not taken for a spike for ever.
    Logged: ``guard/gradient_norm``, ``guard/skipped_steps``.
    """

    def __init__(
        self,
        last: str | Path,
        loss_factor: float | None = 3.0,
        norm_factor: float | None = 10.0,
        memory_steps: int = 100,
        max_skips: int = 10,  # in a row; then back to the last checkpoint
        max_rollbacks: int = 3,  # in the whole run; then an error
    ) -> None:
        self.last, self.memory_steps = Path(last), memory_steps
        self.factors = tuple(f or math.inf for f in (loss_factor, norm_factor))
        self.max_skips, self.max_rollbacks = max_skips, max_rollbacks
        self.skipped, self.in_a_row, self.rollbacks = 0, 0, 0
        self._means, self._good_steps = (0.0, 0.0), 0.0
        self._loss: Tensor | float = 0.0  # of the step that is being taken
        self._bad: Tensor | None = None
        self._unheard: _Unheard | None = None  # the step before

    # --- around a step ----------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._to(pl_module.device)
        for optimizer in trainer.optimizers:
            optimizer.step = self._guarded(optimizer, optimizer.step)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        self._loss = self._loss + loss.detach().float()  # parts, where gradients are accumulated

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        self._settle()
        loss = torch.as_tensor(self._loss, device=pl_module.device)
        self._loss = 0.0
        if trainer.world_size > 1:
            dist.all_reduce(loss)
            loss = loss / trainer.world_size
        norm = gradient_norm(optimizer)
        self._bad = self._judge(torch.stack([loss, norm.to(loss)]))
        pl_module.log("guard/gradient_norm", norm)
        pl_module.log("guard/skipped_steps", float(self.skipped))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.in_a_row >= self.max_skips:
            self._go_back(trainer, pl_module)

    def _judge(self, values: Float[Tensor, " 2"]) -> Bool[Tensor, ""]:
        """Whether this loss and this norm are bad; good ones move the means. All on the device."""
        limits = self._means * self._means.new_tensor(self.factors)
        spike = (self._good_steps >= self.memory_steps) & (values > limits).any()
        bad = spike | ~values.isfinite().all()
        count = (self._good_steps + 1).clamp_max(float(self.memory_steps))
        moved = self._means + (values - self._means) / count
        self._means = torch.where(bad, self._means, moved)
        self._good_steps = torch.where(bad, self._good_steps, self._good_steps + 1)
        return bad

    def _guarded(self, optimizer: Optimizer, update: Callable) -> Callable:
        """``optimizer.step`` that undoes itself where the step is bad."""

        @functools.wraps(update)
        def step(closure: Callable | None = None) -> Any:
            with torch.enable_grad():
                result = closure() if closure is not None else None
            if self._bad is None:  # nothing was judged: no backward came before
                update()
                return result
            left_to_host = []
            for part in parts_of(optimizer):
                with Undone(optimizer, part, self._bad) as undone:
                    update()
                left_to_host += undone.left_to_host
            self._unheard, self._bad = _Unheard(self._bad, left_to_host), None
            return result

        return step

    def _settle(self) -> None:
        """Hear of the step before: count, and put back what only the host can."""
        if self._unheard is None:
            return
        bad, self._unheard = self._unheard.was_bad(), None
        self.skipped += bad
        self.in_a_row = self.in_a_row + 1 if bad else 0

    # --- back to the last checkpoint --------------------------------------------------------

    def _go_back(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        in_a_row = self.in_a_row
        self._settle()
        self.rollbacks += 1
        what = f"{in_a_row} steps in a row before step {trainer.global_step} had a loss or a "
        what += "gradient that is a spike or not finite"
        if self.rollbacks > self.max_rollbacks or not self.last.exists():
            tried = f"went back {self.rollbacks - 1} times" if self.last.exists() else "has none"
            raise ValueError(
                f"{what}, and going back to the last checkpoint does not help (the run {tried}); "
                f"lower optimizer.lr, look at the data of these steps, or raise "
                f"callbacks.guard.norm_factor, and go on with resume=auto."
            )
        restore(trainer, pl_module, self.last)
        if trainer.is_global_zero:
            log.warning("%s; back to the weights of %s, and on with new data.", what, self.last)
        self.in_a_row, self._means, self._good_steps = 0, (0.0, 0.0), 0.0
        self._to(pl_module.device)

    # --- kept in checkpoints ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        self._settle()
        means, good_steps = torch.as_tensor(self._means).tolist(), float(self._good_steps)
        counts = {name: getattr(self, name) for name in ("skipped", "in_a_row", "rollbacks")}
        return counts | {"means": means, "good_steps": good_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("skipped", "in_a_row", "rollbacks"):
            setattr(self, name, state_dict[name])
        self._means, self._good_steps = tuple(state_dict["means"]), state_dict["good_steps"]

    def _to(self, device: torch.device) -> None:
        self._means = torch.as_tensor(self._means, dtype=torch.float32, device=device)
        self._good_steps = torch.as_tensor(self._good_steps, dtype=torch.float32, device=device)


class _Unheard:
    """A verdict on its way to the host, and what the host must put back if it is bad."""

    def __init__(self, bad: Bool[Tensor, ""], left_to_host: list[tuple[dict, str, Any]]) -> None:
        self.left_to_host, self.arrived = left_to_host, None
        self.bad = bad
        if bad.device.type == "cuda":
            self.bad = torch.empty((), dtype=torch.bool, pin_memory=True)
            self.bad.copy_(bad, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def was_bad(self) -> bool:
        if self.arrived is not None:
            self.arrived.synchronize()  # of the step before: a whole backward is queued behind it
        bad = bool(self.bad)
        for state, name, before in self.left_to_host if bad else ():
            if isinstance(state[name], Tensor):
                state[name].copy_(before)
            else:
                state[name] = before
        return bad


def gradient_norm(optimizer: Optimizer) -> Float[Tensor, ""]:
    """2-norm of all gradients together, over all ranks where they are sharded."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def restore(trainer: L.Trainer, pl_module: L.LightningModule, path: Path) -> None:
    """Weights, their average and optimizer state of a checkpoint, in the middle of a fit.

    All ranks call it together. Steps, schedules, data and other callbacks stay as they are.
    """
    checkpoint = trainer.strategy.load_checkpoint(path.resolve(), weights_only=True)
    trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging):
            callback.on_load_checkpoint(trainer, pl_module, checkpoint)
    trainer.strategy.load_optimizer_state_dict(checkpoint)
    for config in trainer.lr_scheduler_configs:  # the optimizer has come with its old rates
        groups = config.scheduler.optimizer.param_groups
        for group, rate in zip(groups, config.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
