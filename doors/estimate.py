"""What a training will take: tokens, memory and time, from its config and the network itself.

Sizes come from the real network on the meta device, where tensors have shapes and no memory, so a
model of billions is counted on a laptop. Times come from a few real steps of each stage; memory is
``doors.memory_plan``.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.utils import instantiate
from jaxtyping import UInt8
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from data.curriculum import CurriculumScenes, Stage
from lras.config import PredictorConfig
from lras.flops import group_tokens
from lras.grid import PatchGrid
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule
from lras.sequence import patches_within

TIMED_STEPS = 3  # after one that warms up
TEXTURES = 60  # enough to time the making of scenes
MAX_FLOPS = {"cpu": 3e11, "cuda": 3e16}  # of one step; a larger one is not timed


@dataclass(frozen=True, kw_only=True)
class Work:
    """One stage of the training as the network sees it."""

    steps: int
    batch: int  # pairs per step, over all processes
    size: int  # px
    share: float  # of frame 1's patches in the sequence
    stage: Stage | None  # to draw scenes from; None where the data lie on disk
    limit: int | None = None  # tokens of a sequence, at most

    def grid(self, cfg: PredictorConfig) -> PatchGrid:
        return PatchGrid(self.size, self.size, cfg.patch_px, cfg.code_px)

    def patches(self, cfg: PredictorConfig) -> tuple[int, int]:
        """Patches of frame 0 and of frame 1 in a training sequence."""
        groups = group_tokens(cfg, 0), group_tokens(cfg, 1)
        return patches_within(self.limit, self.grid(cfg).num_patches, self.share, groups)

    def tokens(self, cfg: PredictorConfig) -> int:
        """Tokens of one training sequence."""
        return sum(n * group_tokens(cfg, f) for f, n in enumerate(self.patches(cfg)))


def num_processes(cfg: DictConfig) -> int:
    """Processes that the trainer would start; ``devices=auto`` counts the GPUs of this machine."""
    devices = cfg.trainer.devices
    if isinstance(devices, str) and not devices.isdigit():
        devices = max(1, torch.cuda.device_count()) if cfg.trainer.accelerator == "gpu" else 1
    each = len(devices) if OmegaConf.is_list(devices) else int(devices)
    return each * int(cfg.trainer.get("num_nodes", 1))


def plan_of(
    data: Any,
    steps: int,
    model: PredictorConfig,
    world: int,
    parts: int = 1,
    limit: int | None = None,
) -> list[Work]:
    """Stages up to ``steps``; data on disk are one stage of the model's own image size.

    ``parts``: batches that each of ``world`` processes accumulates for one step.
    """
    if not hasattr(data, "stages"):
        own = {"batch": data.batch_size * world * parts, "size": model.image_size}
        return [Work(steps=steps, share=1.0, stage=None, limit=limit, **own)]
    plan, left = [], steps
    for stage in data.stages:
        taken = min(left, stage.steps)
        work = {"batch": stage.batch, "size": stage.scene.size, "share": stage.frame1_share}
        plan += [Work(steps=taken, stage=stage, limit=limit, **work)] if taken else []
        left -= taken
    return plan


def work_of(cfg: DictConfig, data: Any, steps: int, model: PredictorConfig) -> list[Work]:
    """``plan_of`` with the processes, accumulated batches and limit of tokens of ``cfg``."""
    parts = cfg.trainer.get("accumulate_grad_batches", 1)
    return plan_of(data, steps, model, num_processes(cfg), parts, cfg.sequence.tokens)


def fullest(cfg: DictConfig, plan: list[Work], model: PredictorConfig) -> tuple[Work, int]:
    """The stage with the most tokens, and the pairs that a process takes of it at a time."""
    work = max(plan, key=lambda work: work.tokens(model) * work.batch)
    parts = cfg.trainer.get("accumulate_grad_batches", 1)
    return work, max(1, work.batch // (num_processes(cfg) * parts))


def total_tokens(plan: list[Work], model: PredictorConfig) -> int:
    """Tokens of all training sequences of a plan."""
    return sum(work.tokens(model) * work.batch * work.steps for work in plan)


def seconds_per_step(
    cfg: DictConfig, work: Work, predictor: FramePredictor, world: int, device: str
) -> float | str:
    """Seconds of one optimizer step of one process, its data included; or why they are not known.

    ``predictor`` is the network on meta: what is timed is built anew, with weights.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return "no GPU here"
    parts = cfg.trainer.get("accumulate_grad_batches", 1)
    pairs = max(1, work.batch // (world * parts))
    if 6 * count(predictor) * pairs * work.tokens(predictor.cfg) > MAX_FLOPS[device]:
        return "too large to try"
    try:
        return parts * timed(cfg, work, pairs, device)
    except torch.OutOfMemoryError:
        return "out of memory"


def timed(cfg: DictConfig, work: Work, pairs: int, device: str, steps: int = TIMED_STEPS) -> float:
    """Seconds of a step on ``pairs`` pairs, measured.

    Raises:
        OutOfMemoryError: of torch, where they do not fit on a GPU.
    """
    module = module_of(cfg, work, device)
    optimizer = instantiate(cfg.optimizer)(module.predictor)
    frames = _frames(work, pairs)
    start = time.perf_counter()
    for step in range(1 + steps):
        with autocast_of(cfg, device):
            loss = module.nats(next(frames).to(device), step, work.share).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        if not step:
            start = time.perf_counter()
    return (time.perf_counter() - start) / max(1, steps)


def module_of(cfg: DictConfig, work: Work, device: str) -> PredictorModule:
    """A module with fresh weights as ``cfg`` describes it; not compiled."""
    predictor = instantiate(cfg.model.predictor, _convert_="object")
    quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    running = {"recompute": cfg.schedule.recompute, "loss": instantiate(cfg.loss)}
    return PredictorModule(predictor, quantizer, tokens=work.limit, **running).to(device)


def autocast_of(cfg: DictConfig, device: str) -> torch.autocast:
    """The number format of ``trainer.precision``."""
    return torch.autocast(device, torch.bfloat16, enabled="16" in str(cfg.trainer.precision))


def _frames(work: Work, pairs: int) -> Iterator[UInt8[Tensor, "batch 2 3 height width"]]:
    """Batches of one process: true scenes, or noise in place of what lies on disk."""
    if work.stage is None:
        while True:
            yield torch.randint(256, (pairs, 2, 3, work.size, work.size), dtype=torch.uint8)
    stage = replace(work.stage, steps=1 + TIMED_STEPS, batch=pairs)
    for batch in CurriculumScenes([stage], textures=TEXTURES):
        yield batch["frames"]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
