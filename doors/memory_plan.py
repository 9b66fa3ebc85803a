"""How much memory a training step will take, found by playing it through on tensors without any.

The step runs on fake tensors: they have shapes, devices and lifetimes but no memory, so billions of
parameters are planned on a laptop. torch's MemTracker adds them up. What it does not see: the
libraries' own memory, fragmentation, what compiling saves, the passing needs of the update.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.utils import clip_grad_norm_

from doors.estimate import Work, autocast_of
from lras.predictor import FramePredictor
from lras.running import Running, block_runner

HEADROOM = 0.9  # of a device's memory that a batch may be planned to take
MAX_BATCH = 65_536  # pairs


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one process at the moment it holds the most, and what lives all the time."""

    weights: int  # with buffers, the quantizer's included
    gradients: int
    optimizer: int
    activations: int  # and everything else that comes and goes
    logits: int  # of the activations: logits held at a time, in float32
    peak: int


def memory_plan(cfg: DictConfig, work: Work, pairs: int) -> MemoryPlan:
    """Of a process that takes ``pairs`` pairs of ``work`` at a time.

    On a machine without CUDA the CPU's kernels are asked, also for a training on GPUs.
    """
    device = "cuda" if cfg.trainer.accelerator == "gpu" and torch.cuda.is_available() else "cpu"
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.loss.impl = seen_impl(cfg.loss.impl)
    with torch.device("meta"):
        quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    with FakeTensorMode(allow_non_fake_inputs=True):
        predictor = predictor_of(cfg, device)
        peak = peak_of_step(cfg, work, pairs, predictor)
    gradients = num_bytes(predictor.parameters())
    weights = gradients + num_bytes(predictor.buffers())
    activations = peak - weights - gradients
    weights += num_bytes([*quantizer.parameters(), *quantizer.buffers()])
    optimizer = optimizer_bytes(instantiate(cfg.optimizer)(predictor_of(cfg, "meta")))
    model = predictor.cfg
    rows = pairs * work.patches(model)[1] * model.codes_per_patch
    logits = rows * (model.num_codes if model.tied_head else predictor.head.out_features)
    if cfg.loss.impl != "naive":
        logits = min(logits, predictor.loss.chunk_elements)
    return MemoryPlan(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=4 * logits,
        peak=weights + gradients + optimizer + activations,
    )


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What this optimizer keeps, found by letting it take a step on the meta device."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return num_bytes(value for value in kept if isinstance(value, torch.Tensor) and value.is_meta)


def predictor_of(cfg: DictConfig, device: str) -> FramePredictor:
    """The network that is trained, run as in training but not compiled."""
    with torch.device(device):
        predictor = instantiate(cfg.model.predictor, _convert_="object")
    predictor.loss = instantiate(cfg.loss)
    predictor.run_block = block_runner(Running(recompute=cfg.schedule.recompute))
    return predictor


def seen_impl(impl: str) -> str:
    """The loss that stands in for one whose inner tensors no dispatcher sees; chunks alike."""
    return impl if impl == "naive" else "chunked"


def peak_of_step(cfg: DictConfig, work: Work, pairs: int, predictor: FramePredictor) -> int:
    """The most bytes that weights, gradients and activations take at a time, by torch's tracker.

    As Lightning goes: forward while the last step's gradients live on, gradients away (but where
    batches are accumulated: there they live on and are added to), backward, clip. Codes are given:
    making them takes no gradients and less than the blocks do.
    """
    for parameter in predictor.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tracker = MemTracker()
    tracker.track_external(predictor)
    with tracker:
        forward_backward(cfg, work, pairs, predictor)
    return tracked_peak(tracker)


def forward_backward(cfg: DictConfig, work: Work, pairs: int, predictor: FramePredictor) -> None:
    """A step up to the optimizer's update, on codes that are all 0; the last accumulated batch."""
    model, device = predictor.cfg, next(predictor.parameters()).device
    grid, (placed, kept) = work.grid(model), work.patches(model)
    shape = pairs, grid.num_patches, model.codes_per_patch
    codes = torch.zeros(shape, dtype=torch.long, device=device)
    order = torch.arange(grid.num_patches, device=device).repeat(pairs, 1)
    with autocast_of(cfg, device.type):
        loss = predictor(codes, codes, order[:, :placed], order[:, :kept], grid).mean()
    if cfg.trainer.get("accumulate_grad_batches", 1) == 1:
        predictor.zero_grad()
    loss.backward()
    if cfg.trainer.get("gradient_clip_val"):
        clip_grad_norm_(predictor.parameters(), cfg.trainer.gradient_clip_val)


def tracked_peak(tracker: MemTracker) -> int:
    return sum(snapshot["Total"] for snapshot in tracker.get_tracker_snapshot("peak").values())


def largest_batch(peak: Callable[[int], int], budget: int, most: int = MAX_BATCH) -> int:
    """The most pairs whose ``peak`` is at most ``budget`` bytes; 0 where not even one fits.

    ``peak`` must not fall with the number of pairs. It is asked as seldom as a nearly straight line
    allows: the next number tried lies where the line through the last ones meets the budget.
    """
    low, low_peak = 1, peak(1)
    if low_peak > budget:
        return 0
    high, slope = most + 1, None  # low fits, high does not
    guess = 2
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        taken = peak(guess)
        if taken <= budget:
            slope = (taken - low_peak) / (guess - low)
            low, low_peak = guess, taken
        else:
            slope, high = (taken - low_peak) / (guess - low), guess
        guess = low + int((budget - low_peak) / slope) if slope > 0 else most
    return low


def device_bytes(accelerator: str) -> int | None:
    """Memory of the GPU, or what is free of the machine's; None for a GPU that is not here."""
    if accelerator == "gpu":
        if not torch.cuda.is_available():
            return None
        return torch.cuda.get_device_properties(0).total_memory
    with open("/proc/meminfo") as file:
        lines = dict(line.split(":") for line in file)
    return 1024 * int(lines["MemAvailable"].split()[0])


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
