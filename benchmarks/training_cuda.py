"""Training at the promised sizes on an accelerator: tokens/s, utilization, memory, a bare loop.

    python benchmarks/training.py --device cuda [--quick] [--sizes 85M 302M ...] [--json FILE]

Each size is the experiment of that name as train.py builds it for one GPU, bfloat16 and compiled
block by block, on one fixed batch of two whole frames. ``claims_speed.py`` says what the figures
are; beside the result file, in ``logs/``, stands a table of each size's operations by time.
"""

import gc
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from benchmarks.bare_loop import beside_bare, compared
from benchmarks.claim import NotMeasuredError
from benchmarks.result_file import CANNOT_MEASURE_HERE, read_result, write_result
from benchmarks.shipped import Given, configured, fresh_module, noise_batch, shipped_trainer
from benchmarks.timed_steps import Span
from doors.batch_size import Group, largest_power, planned_bytes
from doors.estimate import Work
from doors.memory_plan import HEADROOM
from lras.config import PredictorConfig
from lras.flops import peak_flops, training_flops
from tracing.benchmarks.provenance import git_sha

SIZES = {"85M": "lras_small", "302M": "lras_medium", "679M": "lras_large", "925M": "lras_1b"}
SMALLEST = "85M"
MOST_PAIRS = 8  # 73,728 tokens: more of them take longer and are hardly faster
STEPS, QUICK_STEPS = 60, 20
WARM_UP, TRACED = 5, 3  # steps; the first ones compile
SEQUENCE = (
    "9,216 tokens: two whole frames of 1,024 patches of four codes, pointers in frame 1 alone; the "
    "promise says 10,240, which is with pointers in both"
)


@dataclass(frozen=True)
class Accelerator:
    """What is trained on, and how it is asked for its memory."""

    name: str
    total_bytes: int
    reset_peak: Callable[[], None]
    peak_bytes: Callable[[], int]

    @classmethod
    def here(cls) -> "Accelerator":
        """The first GPU.

        Raises:
            NotMeasuredError: there is none.
        """
        if not torch.cuda.is_available():
            raise NotMeasuredError("training speed on an accelerator needs CUDA, and none is here")
        total = torch.cuda.get_device_properties(0).total_memory
        own = torch.cuda.reset_peak_memory_stats, torch.cuda.max_memory_allocated
        return cls(torch.cuda.get_device_name(0), total, *own)


class WeighedSpan(Span):
    """A span that also asks how much memory its steps took at most."""

    def __init__(self, steps: int, accelerator: Accelerator) -> None:
        super().__init__(WARM_UP, steps, TRACED + 1)
        self.accelerator, self.peak = accelerator, 0

    def begin(self) -> None:
        self.accelerator.reset_peak()
        super().begin()

    def end(self) -> None:
        super().end()
        self.peak = self.accelerator.peak_bytes()


def measure(
    path: Path,
    sizes: dict[str, tuple[str, ...]],
    accelerator: Accelerator,
    steps: int,
    smallest: str = SMALLEST,
) -> None:
    """Measure every size, given as words for train.py, and write the file anew after each.

    What the file holds of other sizes stays if it is of this commit and this device.
    """
    figures = kept(path, accelerator) | {"gpu": accelerator.name, "sequence": SEQUENCE}
    figures |= {"data": "one fixed batch from pinned memory; nothing is read or drawn"}
    figures.setdefault("sizes", {})
    command = shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]])
    for name, words in sizes.items():
        start = time.monotonic()
        table = path.parent / "logs" / f"{path.stem}_{name}.txt"
        found = measured_size(words, accelerator, steps, table)
        if name == smallest and "pairs" in found:
            pairs = max(1, found["pairs"] // 2)  # two networks share the memory
            figures["step"] = measured_step(words, pairs, steps)
        found["minutes"] = round((time.monotonic() - start) / 60, 2)
        figures["sizes"][name] = found
        print(name, found, file=sys.stderr, flush=True)
        write_result(path.name, figures, command, [0], path.resolve().parent)


def kept(path: Path, accelerator: Accelerator) -> dict[str, Any]:
    """Figures that other sizes left in the file; none of another commit or device."""
    try:
        before = read_result(path.name, path.resolve().parent)
    except (NotMeasuredError, ValueError):
        return {}
    same = before["git_sha"] == git_sha() and before["figures"].get("gpu") == accelerator.name
    return before["figures"] if same else {}


def on_cuda(path: Path, quick: bool, names: list[str]) -> int:
    """The exit status of ``python benchmarks/training.py --device cuda``."""
    try:
        accelerator = Accelerator.here()
    except NotMeasuredError as reason:
        print(f"{reason}; run it where there is a GPU.", file=sys.stderr)
        return CANNOT_MEASURE_HERE
    sizes = {
        name: (f"experiment={SIZES[name]}", "trainer=gpu", "trainer.devices=1") for name in names
    }
    measure(path, sizes, accelerator, QUICK_STEPS if quick else STEPS)
    return 0


def measured_size(
    words: tuple[str, ...], accelerator: Accelerator, steps: int, table: Path
) -> dict[str, Any]:
    """Speed and memory of one size, and its operations by time in the file ``table``."""
    planned = plan_of(words)
    most = largest_power(planned, int(HEADROOM * accelerator.total_bytes), MOST_PAIRS)
    if not most:
        return {"planned_gb_of_one_pair": planned(1) / 1e9}
    pairs = most
    while True:
        try:
            found = trained(words, pairs, accelerator, steps, table)
            break
        except torch.OutOfMemoryError:
            if pairs == 1:
                raise
            pairs //= 2
        finally:
            tidy()
    error = planned(pairs) / 1e9 / found["true_gb"] - 1
    memory = {"planned_gb": planned(pairs) / 1e9, "memory_error": error}
    return found | memory | {"pairs_that_were_planned_to_fit": most}


def plan_of(words: tuple[str, ...]) -> Callable[[int], int]:
    """Planned bytes by number of pairs."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = configured(Path(folder), *words)

    @cache
    def planned(pairs: int) -> int:
        return planned_bytes(cfg, work_of(cfg, pairs), pairs, Group(1, 1))

    return planned


def work_of(cfg: DictConfig, pairs: int) -> Work:
    side = cfg.model.predictor.cfg.image_size
    return Work(steps=1, batch=pairs, size=side, share=1.0, stage=None, limit=cfg.sequence.tokens)


def trained(
    words: tuple[str, ...], pairs: int, accelerator: Accelerator, steps: int, table: Path
) -> dict[str, Any]:
    """``steps`` timed steps of ``pairs`` pairs, and then the traced ones."""
    trace = f"callbacks.profile.start={WARM_UP + steps}", f"callbacks.profile.steps={TRACED}"
    span = WeighedSpan(steps, accelerator)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cfg = configured(folder, *words, "callbacks=[default,profile]", *trace)
        module = fresh_module(cfg, folder)
        batch = batch_of(cfg, pairs)
        trainer = shipped_trainer(cfg, folder, span)
        trainer.fit(module, DataLoader(Given(batch), batch_size=None))
        table.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "trace.txt", table)
    model, work = module.predictor.cfg, work_of(cfg, pairs)
    return {
        "pairs": pairs,
        "tokens_per_sequence": work.tokens(model),
        "steps": steps,
        "ms_per_step": 1e3 * span.seconds / steps,
        "tokens_per_s": span.tokens / span.seconds,
        **utilization(model, work, pairs * steps / span.seconds, accelerator.name),
        "compile": cfg.schedule.compile,
        "recompute": cfg.schedule.recompute,
        "true_gb": span.peak / 1e9,
        "operations": f"logs/{table.name}",
    }


def utilization(model: PredictorConfig, work: Work, pairs_per_s: float, name: str) -> dict:
    """Executed FLOP/s over the data sheet's; nothing where the device is not in the table."""
    peak = peak_flops(name)
    if peak is None:
        return {}
    both = {"mfu_causal": False, "mfu_full_square": True}
    sizes = *work.patches(model), model.num_codes
    return {
        key: pairs_per_s * training_flops(model, *sizes, full) / peak for key, full in both.items()
    }


def batch_of(cfg: DictConfig, pairs: int) -> dict[str, Any]:
    side = cfg.model.predictor.cfg.image_size
    return noise_batch(pairs, side, 1.0, pinned=cfg.trainer.accelerator == "gpu")


def measured_step(words: tuple[str, ...], pairs: int, steps: int) -> dict[str, Any]:
    """Our step over a bare loop's on the same device, in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        cfg = configured(Path(scratch), *words)
        batch = batch_of(cfg, pairs)
        ours, bare = beside_bare(cfg, batch, steps, Path(scratch), WARM_UP)
    tidy()
    return compared(ours, bare) | {"pairs_of_frames": pairs}


def tidy() -> None:
    """Nothing of one size may lie in the way of the next."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
