"""What a training step costs: time against a bare loop, memory of the loss, the plan's error.

    python benchmarks/training.py --quick --json benchmarks/results/training.json

``--quick`` takes a narrower head and fewer pairs of steps. ``claims_speed.py`` says what the result
file holds.
"""

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir

from benchmarks.bare_loop import beside_bare
from benchmarks.loss_memory import loss_peak
from benchmarks.memory_truth import true_peak
from benchmarks.result_file import ROOT, write_result
from doors.estimate import Work
from doors.memory_plan import memory_plan
from lras.bottleneck import LFQ
from lras.loss import LossConfig, has_native
from tests.reference.slow_entropy import full_entropies

# (side px, pairs, share of frame 1): stages of experiment=lras_nano
STAGES = {"20 px": (20, 64, 1.0), "32 px": (32, 32, 1.0), "64 px": (64, 20, 0.4)}
ROWS, VOCAB, DIM, QUICK_DIM = 8192, 67_584, 768, 128
PLANS = {
    "nano": ("experiment=lras_nano", "trainer.precision=32-true"),
    "nano, bf16, recompute=block": ("experiment=lras_nano", "schedule.recompute=block"),
    "micro, AdamW": ("experiment=lras_micro", "trainer=cpu", "optimizer=adamw"),
}


def steps(pairs: int) -> dict:
    """Our step over a bare loop's: median of the ratios and its bootstrap interval, by stage."""
    found = {}
    for name, (side, batch, share) in STAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            ours, bare = beside_bare(side, batch, share, pairs, folder)
        ratios = torch.tensor([a / b for a, b in zip(ours, bare, strict=True)])
        patches = (side // 4) ** 2
        tokens = batch * (patches + 2 * max(1, round(share * patches)))
        found[name] = {
            "ratio": ratios.median().item(),
            "ratio_ci95": median_interval(ratios),
            "pairs": len(ratios),
            "our_ms": 1e3 * statistics.median(ours),
            "bare_ms": 1e3 * statistics.median(bare),
            "tokens_per_s": tokens / statistics.median(ours),
        }
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def median_interval(values: torch.Tensor, draws: int = 2000) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(values), (draws, len(values)), generator=generator)
    medians = values[rows].median(1).values
    return [medians.quantile(q).item() for q in (0.025, 0.975)]


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


def plans() -> dict:
    """The planned peak against torch's tracker on two true steps, on a CPU."""
    found = {}
    for name, words in PLANS.items():
        with initialize_config_dir(str(ROOT / "configs"), version_base=None):
            cfg = compose("train", list(words))
        work = Work(steps=1, batch=4, size=64, share=0.5, stage=None)
        planned, true = memory_plan(cfg, work, 4).peak, true_peak(cfg, work, 4)
        found[name] = {"planned_gb": planned / 1e9, "true_gb": true / 1e9}
        found[name]["error"] = abs(planned / true - 1)
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrower head, fewer pairs of steps")
    parser.add_argument("--json", type=Path, help="result file to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    figures = {
        "threads": options.threads,
        "quick": options.quick,
        "plans": plans(),
        "entropies": entropies(),
        "steps": steps(24 if options.quick else 60),
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
