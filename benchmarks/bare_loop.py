"""A bare PyTorch training loop of the same model, and ours step by step beside it."""

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from benchmarks.shipped import Given, fresh_module, shipped_trainer, wait_for
from lras.grid import PatchGrid
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer

WARM_UP = 3  # pairs of steps that do not count; more where there is something to compile


class BareLoop:
    """What anybody would write: encode, draw orders, forward, backward, clip, update, rate."""

    def __init__(
        self,
        predictor: FramePredictor,
        quantizer: Quantizer,
        share: float,
        make_optimizer: Callable[[nn.Module], Optimizer],
    ) -> None:
        self.predictor, self.quantizer, self.share = predictor, quantizer, share
        self.optimizer = make_optimizer(predictor)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = list(predictor.parameters())
        self.steps = 0

    def step(self, frames: Tensor) -> float:
        """One optimizer step; its seconds, until the device has done it."""
        start = time.perf_counter()
        device = self.parameters[0].device
        frames = frames.to(device, non_blocking=True)
        cfg = self.predictor.cfg
        grid = PatchGrid(*frames.shape[-2:], cfg.patch_px, cfg.code_px)
        frame0, frame1 = (frames.float() / 255).unbind(1)
        codes0 = grid.to_patches(self.quantizer.encode(frame0))
        codes1 = grid.to_patches(self.quantizer.encode(frame1))
        size = 2, len(frames), grid.num_patches
        order0, order1 = torch.rand(size, device=device).argsort(-1)
        kept = max(1, round(self.share * grid.num_patches))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, (self.steps + 1) / 30)
        with torch.autocast(device.type, torch.bfloat16):
            loss = self.predictor(codes0, codes1, order0, order1[:, :kept], grid).mean()
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.steps += 1
        wait_for(device)
        return time.perf_counter() - start


class Beside(L.Callback):
    """After every step of ours one of the bare loop, ``pairs`` times; seconds of both.

    Ours reaches from the end of this hook to its next call: loading, all that Lightning does, and
    the hooks of the other callbacks. The loop is made when training starts: ours is where it
    belongs by then.
    """

    def __init__(self, make_bare: Callable[[], BareLoop], frames: Tensor, pairs: int) -> None:
        self.make_bare, self.frames, self.pairs = make_bare, frames, pairs
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_train_start(self, *_: object) -> None:
        self.bare = self.make_bare()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        wait_for(pl_module.device)
        if self.theirs:
            self.ours.append(time.perf_counter() - self.since)
        if len(self.ours) == self.pairs:
            trainer.should_stop = True
            return
        self.theirs.append(self.bare.step(self.frames))
        self.since = time.perf_counter()


def beside_bare(
    cfg: DictConfig, batch: dict[str, Any], pairs: int, folder: Path, warm_up: int = WARM_UP
) -> tuple[list[float], list[float]]:
    """Seconds of our steps and of the bare loop's, pair by pair, ``warm_up`` ones left out.

    ``batch`` is that of every step; a training's config, with callbacks and all, is ``cfg``.
    """
    module = fresh_module(cfg, folder)

    def bare() -> BareLoop:
        predictor = deepcopy(module.predictor)  # compiled and recomputed as ours is
        share = batch["frame1_share"]
        return BareLoop(predictor, module.quantizer, share, module.make_optimizer)

    beside = Beside(bare, batch["frames"], warm_up + pairs)
    trainer = shipped_trainer(cfg, folder, beside)
    trainer.fit(module, DataLoader(Given(batch), batch_size=None))
    return beside.ours[warm_up:], beside.theirs[warm_up:]


def compared(ours: list[float], bare: list[float]) -> dict[str, Any]:
    """Median of the paired ratios with its bootstrap interval, and both medians."""
    ratios = torch.tensor([a / b for a, b in zip(ours, bare, strict=True)])
    return {
        "ratio": ratios.median().item(),
        "ratio_ci95": median_interval(ratios),
        "pairs": len(ratios),
        "our_ms": 1e3 * statistics.median(ours),
        "bare_ms": 1e3 * statistics.median(bare),
    }


def median_interval(values: Tensor, draws: int = 2000) -> list[float]:
    """95 %, by drawing values again."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(values), (draws, len(values)), generator=generator)
    medians = values[rows].median(1).values
    return [medians.quantile(q).item() for q in (0.025, 0.975)]
