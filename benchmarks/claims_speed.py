"""The promises of fast training: what a step costs, what it holds, and how soon flow emerges.

Names that ``figures`` carries, by result file.

training.json (benchmarks/training.py, one CPU thread)
    steps             by stage of lras_nano: ratio of our step to a bare PyTorch loop's in the same
                      process, step by step in turn: median, ratio_ci95, pairs; tokens_per_s
    loss              by implementation: peak_gb, of_naive; rows, vocab, dim of the head
    entropies         by number of bits: cell_difference_nats (our entropy of a cell's code less the
                      full softmax's), batch_gap_nats (the same of the mean code), float64
    plans             by setting: error of the planned peak, as a share of the tracked one
optimizers.json (benchmarks/measure_optimizers.py)
    runs              by optimizer and seed: steps_to_emergence (none: not in steps_run), curve of
                      EPE over zero motion's
speed_cuda.json (an accelerator; nothing writes it yet)
"""

import math
from functools import cache, partial

import torch

from benchmarks.claim import Claim, Figure, NotMeasuredError
from benchmarks.claims_main import from_file
from benchmarks.claims_official import on_the_spot, tests_pass
from lras.loss import LossConfig, content_cross_entropy, has_native

TRAINING, OPTIMIZERS, CUDA = "training.json", "optimizers.json", "speed_cuda.json"
COMMANDS = {
    TRAINING: f"python benchmarks/training.py --json benchmarks/results/{TRAINING}",
    OPTIMIZERS: "python benchmarks/measure_optimizers.py",
}
# Tokens/s on one H200 at 10,240 tokens, bf16: floor and target, by parameters in blocks.
FLOORS = {"85M": (180e3, 250e3), "302M": (75e3, 95e3), "679M": (43e3, 54e3), "925M": (33e3, 43e3)}
# Tokens/s of a core in the prototype at 20 to 32 px and at 64 px, the slower end of each range.
RECIPE = {"20 px": 18e3, "32 px": 18e3, "64 px": 14e3}


# --- on the spot --------------------------------------------------------------------------------


@cache
def loss_difference(dtype: torch.dtype) -> Figure:
    """Norm-wise, the worst of value and gradients over the implementations that are here."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 64, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(5000, 64, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(5000, (300,), generator=generator)
    found = {}
    for impl in ["naive", "chunked"] + ["native"] * has_native():
        cfg = LossConfig(impl=impl, z_weight=1e-3, chunk_elements=40 * 5000)
        nats = content_cross_entropy(hidden, weight, targets, cfg)
        found[impl] = nats, *torch.autograd.grad(nats.mean(), (hidden, weight))
    naive = found.pop("naive")
    worst = {
        impl: max(
            ((ours - plain).norm() / plain.norm()).item()
            for ours, plain in zip(each, naive, strict=True)
        )
        for impl, each in found.items()
    }
    return Figure(max(worst.values()), ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))


# --- out of result files ------------------------------------------------------------------------


def worst_step(figures: dict) -> Figure:
    stages = figures["steps"]
    worst = max(stages.values(), key=lambda stage: stage["ratio"])
    note = ", ".join(
        f"{name} {own['ratio']:.3f} [{own['ratio_ci95'][0]:.3f}, {own['ratio_ci95'][1]:.3f}]"
        for name, own in stages.items()
    )
    return Figure(worst["ratio"] if worst["pairs"] >= 20 else math.nan, note)


def worst_loss_memory(figures: dict) -> Figure:
    """Over what is used in training; naive is what they are held against."""
    impls = {k: v for k, v in figures["loss"]["impls"].items() if k != "naive"}
    note = ", ".join(f"{name} {own['of_naive']:.3f}" for name, own in impls.items())
    return Figure(
        max(own["of_naive"] for own in impls.values()), f"{note}; dim {head_dim(figures)}"
    )


def head_dim(figures: dict) -> int:
    return figures["loss"]["dim"]


def worst_cell_entropy(figures: dict) -> Figure:
    found = {k: v["cell_difference_nats"] for k, v in figures["entropies"].items()}
    return Figure(max(found.values()), ", ".join(f"{k} {v:.1e}" for k, v in found.items()))


def batch_gaps(figures: dict) -> Figure:
    """How many are reported; the gaps themselves are told, not promised."""
    found = {k: (v["batch_gap_nats"], v["batch_nats"]) for k, v in figures["entropies"].items()}
    note = ", ".join(
        f"{name} {gap:.3f} of {whole:.2f} nats" for name, (gap, whole) in found.items()
    )
    return Figure(sum(math.isfinite(gap) for gap, _ in found.values()), note)


def worst_plan(figures: dict) -> Figure:
    found = {name: own["error"] for name, own in figures["plans"].items()}
    return Figure(max(found.values()), ", ".join(f"{k} {v:.2%}" for k, v in found.items()))


def of_recipe(stage: str):
    def read(figures: dict) -> Figure:
        speed = figures["steps"][stage]["tokens_per_s"]
        return Figure(speed / RECIPE[stage], f"{speed:,.0f} of {RECIPE[stage]:,.0f} tokens/s")

    return read


def steps_of(figures: dict, optimizer: str) -> dict[int, float]:
    """By seed; infinite where flow did not emerge."""
    runs = [run for run in figures["runs"].values() if run["optimizer"] == optimizer]
    return {run["seed"]: run["steps_to_emergence"] or math.inf for run in runs}


def seeds_won(figures: dict) -> Figure:
    """Of three seeds, in how many Muon emerges sooner than AdamW at the better of its rates.

    Raises:
        NotMeasuredError: a run of the three seeds is missing.
    """
    muon = steps_of(figures, "muon")
    names = sorted({run["optimizer"] for run in figures["runs"].values()} - {"muon"})
    others = {name: steps_of(figures, name) for name in names}
    if len(muon) < 3 or len(others) < 2 or any(len(own) < 3 for own in others.values()):
        done = len(figures["runs"])
        raise NotMeasuredError(f"{done} of 9 runs are done")
    won = [seed for seed in muon if muon[seed] < min(own[seed] for own in others.values())]
    rows = {"muon": muon} | others
    note = "; ".join(f"{name} {list(own.values())}" for name, own in rows.items())
    return Figure(len(won), note)


def not_here(size: str) -> Figure:
    low, high = FLOORS[size]
    raise NotMeasuredError(
        f"no accelerator was at hand; floor {low / 1e3:.0f}k, target {high / 1e3:.0f}k tokens/s"
    )


def memory_not_here() -> Figure:
    raise NotMeasuredError("max_memory_allocated needs an accelerator, and none was at hand")


CLAIMS: list[Claim] = [
    on_the_spot(
        "loss, float64: worst difference to naive",
        partial(loss_difference, torch.float64),
        "<=",
        1e-10,
    ),
    on_the_spot(
        "loss, float32: worst difference to naive",
        partial(loss_difference, torch.float32),
        "<=",
        1e-5,
    ),
    from_file(TRAINING, "loss", "peak at 8,192 x 67,584 of naive", worst_loss_memory, "<=", 0.25),
    from_file(TRAINING, "step", "ours over a bare loop's, worst stage", worst_step, "<=", 1.05),
    from_file(
        TRAINING, "LFQ", "entropy of a cell less the full one", worst_cell_entropy, "<=", 1e-6
    ),
    from_file(TRAINING, "LFQ", "gaps of the batch term reported", batch_gaps, "==", 2),
    from_file(TRAINING, "memory plan", "worst error on a CPU", worst_plan, "<=", 0.1),
    *(
        from_file(
            TRAINING, "recipe", f"tokens/s at {stage} of its figure", of_recipe(stage), ">=", 1
        )
        for stage in RECIPE
    ),
    from_file(OPTIMIZERS, "Muon", "seeds of three sooner than AdamW", seeds_won, "==", 3),
    tests_pass("a step waits for nothing, accumulates exactly", "tests/test_lras_running.py"),
    *(
        on_the_spot(f"one H200, {size} blocks: tokens/s", partial(not_here, size), ">=", low)
        for size, (low, _) in FLOORS.items()
    ),
    on_the_spot("one H200: memory plan's error", memory_not_here, "<=", 0.1),
]
