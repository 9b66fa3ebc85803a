"""The promises of training at scale: the same numbers by many processes, and nothing ever lost.

Names that ``figures`` carries, by result file.

scale_ranks.json (of tests.distributed_runs)
    ddp_cpu, fsdp_cpu   2 processes against 1 on the same batches: steps, worst_relative_difference
                        of the losses, worst_difference_of_norms, clipped_steps
scale_kills.json (of tests.killed_runs)
    kills               kill -9 at seeded moments of one training
    differing           which parts of the last checkpoint are not those of an undisturbed run
"""

import io
from functools import cache

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from benchmarks.claim import Figure
from benchmarks.claims_main import from_file, plain
from benchmarks.claims_official import on_the_spot, tests_pass
from benchmarks.result_file import ROOT
from doors.sharded_plan import DEVICE_GB, DEVICES, sharded_table, share_of
from lras.predictor import FramePredictor

RANKS, KILLS = "scale_ranks.json", "scale_kills.json"
COMMANDS = {
    RANKS: "python benchmarks/measure_scale.py ranks",
    KILLS: "python benchmarks/measure_scale.py kills",
}
PUBLISHED = 7_038_308_352
ADAMW_STATES = 8 * PUBLISHED  # bytes: two float32 each


@cache
def official_7b() -> FramePredictor:
    cfg = OmegaConf.load(ROOT / "configs" / "model" / "official_7b.yaml")
    with torch.device("meta"):
        return instantiate(cfg.predictor, _convert_="object")


def parameters_of_7b() -> Figure:
    return Figure(sum(parameter.numel() for parameter in official_7b().parameters()))


def plans_of_7b() -> Figure:
    """Plans, of 8, 16 and 64 devices, that leave room for activations; printed by ``dry_run``."""
    console = Console(file=io.StringIO(), width=120)
    console.print(sharded_table(official_7b(), ADAMW_STATES, 0))
    totals = [share_of(official_7b(), ADAMW_STATES, 0, n).total / 1e9 for n in DEVICES]
    note = ", ".join(f"{n}: {gb:.1f} GB" for n, gb in zip(DEVICES, totals, strict=True))
    return Figure(sum(gb < DEVICE_GB for gb in totals), f"{note}, before activations")


def of(trainer: str, name: str):
    def read(figures: dict) -> Figure:
        own = figures[trainer]
        return Figure(own[name], f"{own['steps']} steps, {own['clipped_steps']} of them clipped")

    return read


def differing(figures: dict) -> Figure:
    steps = ", ".join(map(str, figures["killed_after_step"]))
    return Figure(len(figures["differing"]), f"killed after the checkpoints of steps {steps}")


def rank_claims(trainer: str, name: str) -> list:
    return [
        from_file(RANKS, name, f"2 processes against 1: {what}", of(trainer, key), "<=", 1e-5)
        for what, key in (
            ("losses", "worst_relative_difference"),
            ("gradient norms", "worst_difference_of_norms"),
        )
    ]


CLAIMS = [
    *rank_claims("ddp_cpu", "DDP"),
    *rank_claims("fsdp_cpu", "FSDP2"),
    tests_pass("2 -> 1 and 1 -> 2, DDP, FSDP2", "tests/test_distributed.py -k another_number"),
    from_file(KILLS, "kill -9", "in one training", plain("kills"), ">=", 10),
    from_file(KILLS, "kill -9", "parts of the state that differ", differing, "==", 0),
    tests_pass("kill -9 ten times, on clips from disk", "tests/test_killed_runs.py -k clips"),
    tests_pass("SIGTERM, SIGUSR1, SIGUSR2, requeue", "tests/test_doors_preemption.py"),
    tests_pass("full disk", "tests/test_doors_checkpoints.py -k full_disk"),
    tests_pass("atomic, checked, kept as asked", "tests/test_doors_checkpoints.py"),
    tests_pass("truncated last checkpoint", "tests/test_doors_resume.py -k damaged"),
    tests_pass("injected NaN and spikes", "tests/test_lras_guard.py"),
    tests_pass("unreachable W&B", "tests/test_doors_loggers_wandb.py -k server"),
    tests_pass("one killed rank", "tests/test_distributed.py -k dies"),
    tests_pass("sha, versions, data hash, seed; random state", "tests/test_doors_run_record.py"),
    on_the_spot("official_7b: parameters on meta", parameters_of_7b, "==", PUBLISHED),
    on_the_spot("official_7b: plans of 8, 16, 64 that fit 80 GB", plans_of_7b, "==", 3),
    tests_pass("docs/cluster.md in local mode", "tests/test_cluster.py"),
]
