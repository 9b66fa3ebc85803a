"""What a training will take: tokens, memory and time, from its config and the network itself.

Sizes come from the real network on the meta device, where tensors have shapes and no memory, so a
model of billions is counted on a laptop. Times come from a few real steps of each stage.
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
from lras.grid import PatchGrid
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule

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

    def grid(self, cfg: PredictorConfig) -> PatchGrid:
        return PatchGrid(self.size, self.size, cfg.patch_px, cfg.code_px)

    def kept(self, cfg: PredictorConfig) -> int:
        """Patches of frame 1 in a training sequence."""
        return max(1, round(self.share * self.grid(cfg).num_patches))

    def tokens(self, cfg: PredictorConfig) -> int:
        """Tokens of one training sequence."""
        frame0 = self.grid(cfg).num_patches * (cfg.codes_per_patch + cfg.frame0_pointers)
        return frame0 + self.kept(cfg) * (1 + cfg.codes_per_patch)


def num_processes(cfg: DictConfig) -> int:
    """Processes that the trainer would start; ``devices=auto`` counts the GPUs of this machine."""
    devices = cfg.trainer.devices
    if isinstance(devices, str) and not devices.isdigit():
        devices = max(1, torch.cuda.device_count()) if cfg.trainer.accelerator == "gpu" else 1
    each = len(devices) if OmegaConf.is_list(devices) else int(devices)
    return each * int(cfg.trainer.get("num_nodes", 1))


def plan_of(data: Any, steps: int, model: PredictorConfig, world: int) -> list[Work]:
    """Stages up to ``steps``; data on disk are one stage of the model's own image size."""
    if not hasattr(data, "stages"):
        batch = data.batch_size * world
        return [Work(steps=steps, batch=batch, size=model.image_size, share=1.0, stage=None)]
    plan, left = [], steps
    for stage in data.stages:
        taken = min(left, stage.steps)
        work = {"batch": stage.batch, "size": stage.scene.size, "share": stage.frame1_share}
        plan += [Work(steps=taken, stage=stage, **work)] if taken else []
        left -= taken
    return plan


def total_tokens(plan: list[Work], model: PredictorConfig) -> int:
    """Tokens of all training sequences of a plan."""
    return sum(work.tokens(model) * work.batch * work.steps for work in plan)


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What this optimizer keeps, found by letting it take a step on the meta device."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in kept if isinstance(value, Tensor) and value.is_meta)


def activation_bytes(predictor: FramePredictor, work: Work, batch: int) -> int:
    """What a float32 forward of ``batch`` pairs keeps for the backward; ``predictor`` is on meta.

    Left out are the attention weights, which the fused kernels never keep.
    """
    cfg, total = predictor.cfg, 0
    length, grid, kept = work.tokens(cfg), work.grid(cfg), work.kept(cfg)
    counted = {value.untyped_storage()._cdata for value in predictor.state_dict().values()}

    def count_once(value: Tensor) -> Tensor:
        nonlocal total
        storage = value.untyped_storage()
        if storage._cdata not in counted and value.shape[2:] != (length, length):
            counted.add(storage._cdata)
            total += storage.nbytes()
        return value

    with torch.device("meta"):
        codes = torch.zeros(batch, grid.num_patches, cfg.codes_per_patch).long()
        order = torch.zeros(batch, grid.num_patches).long()
    with torch.autograd.graph.saved_tensors_hooks(count_once, lambda value: value):
        # Kept until all is counted: what is freed could lend its number to another tensor.
        graph = predictor(codes, codes, order, order[:, :kept], grid)
    del graph
    return total


def seconds_per_step(
    cfg: DictConfig, work: Work, predictor: FramePredictor, world: int, device: str
) -> float | str:
    """Seconds of one optimizer step of one process, its data included; or why they are not known.

    ``predictor`` is the network on meta: what is timed is built anew, with weights.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return "no GPU here"
    pairs = work.batch // world
    if 6 * count(predictor) * pairs * work.tokens(predictor.cfg) > MAX_FLOPS[device]:
        return "too large to try"
    try:
        return _timed(cfg, work, pairs, device)
    except torch.OutOfMemoryError:
        return "out of memory"


def _timed(cfg: DictConfig, work: Work, pairs: int, device: str) -> float:
    predictor = instantiate(cfg.model.predictor, _convert_="object")
    quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    module = PredictorModule(predictor, quantizer).to(device)
    optimizer = instantiate(cfg.optimizer)(module.predictor)
    lower = "16" in str(cfg.trainer.precision)
    frames = _frames(work, pairs)
    start = time.perf_counter()
    for step in range(1 + TIMED_STEPS):
        with torch.autocast(device, torch.bfloat16, enabled=lower):
            loss = module.nats(next(frames).to(device), step, work.share).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        if not step:
            start = time.perf_counter()
    return (time.perf_counter() - start) / TIMED_STEPS


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
