"""What a training step costs: time against a bare loop, memory of the loss, the plan's error.

    python benchmarks/training.py --quick --json benchmarks/results/training.json
    python benchmarks/training.py --device cuda         promised sizes on a GPU: training_cuda.py

``--quick`` takes a narrower head and fewer steps. ``claims_speed.py`` says what the result files
hold.
"""

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
import torch.nn.functional as F
from omegaconf import DictConfig

from benchmarks.bare_loop import WARM_UP, beside_bare, compared
from benchmarks.loss_memory import loss_peak
from benchmarks.memory_truth import true_peak
from benchmarks.result_file import RESULTS, write_result
from benchmarks.shipped import configured, noise_batch
from benchmarks.timed_steps import with_scenes
from benchmarks.training_cuda import SIZES, on_cuda
from doors.batch_size import Group, planned_bytes
from doors.estimate import Work
from lras.bottleneck import LFQ
from lras.loss import LossConfig, has_native
from tests.reference.slow_entropy import full_entropies

CUDA = "speed_cuda.json"
# By name: which stage of experiment=lras_nano; that of 32 px whose scenes take longest to draw.
STAGES = {"20 px": 0, "32 px": 3, "64 px": 4}
QUICK_PAIRS, PAIRS = 24, 60
ROWS, VOCAB, DIM, QUICK_DIM = 8192, 67_584, 768, 128
MODELS = {
    "nano": ("experiment=lras_nano", "trainer.precision=32-true"),
    "nano, bf16, recompute=block": ("experiment=lras_nano", "schedule.recompute=block"),
    "nano, bf16, loss in chunks": ("experiment=lras_nano", "+loss.chunk_elements=20000"),
    "micro, AdamW": ("experiment=lras_micro", "optimizer=adamw"),
    "micro, recompute=block": ("experiment=lras_micro", "schedule.recompute=block"),
}
VARIANTS = {
    "plain": (),
    "accumulated": ("+trainer.accumulate_grad_batches=2",),
    "averaged": ("callbacks=[ema,default]",),
}
WEIGHED = Work(steps=1, batch=4, size=64, share=0.5, stage=None)


def steps(pairs: int) -> dict:
    """By stage: our step over a bare loop's on one batch, and tokens/s of training on scenes."""
    found = {}
    for name, index in STAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            cfg = one_stage(Path(folder), index)
            (stage,) = cfg.data.stages
            batch = noise_batch(stage.batch, stage.scene.size, stage.get("frame1_share", 1.0))
            ours, bare = beside_bare(cfg, batch, pairs, Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            span = with_scenes(one_stage(Path(folder), index), Path(folder), WARM_UP, pairs)
        tokens = span.tokens / pairs
        found[name] = compared(ours, bare) | {
            "tokens_per_s_with_scenes": span.tokens / span.seconds,
            "tokens_per_s": tokens / statistics.median(ours),
        }
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def one_stage(folder: Path, index: int) -> DictConfig:
    """lras_nano's training with one of its stages alone."""
    cfg = configured(folder, "experiment=lras_nano")
    cfg.data.stages = [cfg.data.stages[index]]
    return cfg


def losses(dim: int) -> dict:
    """Peak bytes by implementation at the published size of the head, over those of naive."""
    impls = ["naive", "chunked"] + ["native"] * has_native()
    found = {}
    for impl in impls:
        start = time.perf_counter()
        peak, loss = loss_peak(LossConfig(impl=impl), ROWS, VOCAB, dim)
        seconds = time.perf_counter() - start
        found[impl] = {"peak_gb": peak / 1e9, "loss_nats": loss, "seconds": seconds}
        found[impl]["of_naive"] = peak / 1e9 / found["naive"]["peak_gb"]
        print(impl, found[impl], file=sys.stderr, flush=True)
    return {"rows": ROWS, "vocab": VOCAB, "dim": dim, "impls": found}


def entropies() -> dict:
    """Of a lookup-free quantizer against the softmax over all codes, in nats, float64."""
    found = {}
    for bits, cells in ((10, 2000), (16, 256)):
        generator = torch.Generator().manual_seed(0)
        latent = torch.randn(cells, bits, generator=generator, dtype=torch.float64)
        unit = F.normalize(latent, dim=-1)
        lfq = LFQ(bits, 0.1).eval()
        (own, mean), (full, full_mean) = (
            lfq.entropies(unit),
            full_entropies(unit, lfq.temperature),
        )
        found[f"{bits} bits"] = {
            "cells": cells,
            "cell_difference_nats": abs(own - full).item(),
            "batch_nats": full_mean.item(),
            "batch_gap_nats": (mean - full_mean).item(),
        }
    return found


def memory() -> dict:
    """The planned peak against what torch's CPU allocator handed out in two real steps."""
    found = {}
    for name, words in MODELS.items():
        for variant, more in VARIANTS.items():
            own = found[f"{name}, {variant}"] = planned_and_true(*words, "trainer=cpu", *more)
            print(name, variant, own, file=sys.stderr, flush=True)
    return found


def planned_and_true(*words: str) -> dict:
    aside = "schedule.compile=false", "callbacks.probe=null", "callbacks.progress=null"
    with tempfile.TemporaryDirectory() as folder:
        cfg = configured(Path(folder), *words, *aside)
        batch = noise_batch(WEIGHED.batch, WEIGHED.size, WEIGHED.share)
        true = true_peak(cfg, batch, Path(folder))
    group = Group.of(cfg)
    work = replace(WEIGHED, batch=WEIGHED.batch * group.parts)
    planned = planned_bytes(cfg, work, WEIGHED.batch, group)
    return {"planned_gb": planned / 1e9, "true_gb": true / 1e9, "error": planned / true - 1}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrower head, fewer steps")
    parser.add_argument("--json", type=Path, help="result file to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of cuda")
    options = parser.parse_args()
    if options.device == "cuda":
        return on_cuda(options.json or RESULTS / CUDA, options.quick, options.sizes)
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    figures = {
        "threads": options.threads,
        "quick": options.quick,
        "memory": memory(),
        "entropies": entropies(),
        "steps": steps(QUICK_PAIRS if options.quick else PAIRS),
        "loss": losses(QUICK_DIM if options.quick else DIM),
    }
    figures["minutes"] = round((time.monotonic() - start) / 60, 2)
    print(f"{figures['minutes']} minutes")
    if options.json:
        command = shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]])
        write_result(options.json.name, figures, command, [0], options.json.resolve().parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
