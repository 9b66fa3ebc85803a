"""Whole trainings through the door by one or more processes, for tests and for the claims.

python -m tests.distributed_runs        training loss of 2 processes against 1, as JSON
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# 20 steps of float32 on the same 20 batches, drawn in two streams whoever draws them.
TWENTY_STEPS = (
    "experiment=smoke",
    "data.streams=2",
    "data.stages.0.steps=10",
    "data.stages.1.steps=10",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "callbacks=[guard,checkpoint,preemption,pictures]",
)


def train(
    folder: Path | None,
    *words: str,
    world: int = 1,
    launcher: str = "lightning",
    trainer: str = "ddp_cpu",
) -> subprocess.CompletedProcess:
    """``train.py`` with ``words``, by ``world`` processes; into its own folder if None is named."""
    words = ("train.py", *words, *((f"hydra.run.dir={folder}",) if folder else ()))
    if world > 1:
        words += (f"trainer={trainer}", f"trainer.devices={world}")
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}")
    command = [sys.executable, *(torchrun if launcher == "torchrun" else ()), *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


def column(folder: Path, name: str) -> list[float]:
    """One figure of every logged step of a run."""
    with (folder / "metrics.csv").open() as file:
        found = [row.get(name) for row in csv.DictReader(file)]
    return [float(value) for value in found if value]


def losses(folder: Path) -> list[float]:
    """Training loss of every logged step of a run, nats per code."""
    return column(folder, "train/nats_per_code")


def norms(folder: Path) -> list[float]:
    """Norm of the gradient of every logged step, over all processes and before clipping."""
    return column(folder, "guard/gradient_norm")


def worst_difference(one: list[float], other: list[float]) -> float:
    """Largest relative difference of two curves of the same length."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


def two_against_one(
    work: Path, *words: str, launcher: str = "lightning", trainer: str = "ddp_cpu"
) -> dict[str, float]:
    """Train on the same batches by one and by two processes; how far losses and norms differ."""
    quantizer, two = work / "quantizer", work / f"{trainer}2"
    given = (*words, f"quantizer={quantizer}")
    for folder, world, own in ((quantizer, 1, words), (work / "by1", 1, given), (two, 2, given)):
        if (folder / "export").is_dir():
            continue  # of an earlier comparison
        own = (*TWENTY_STEPS, *own)
        done = train(folder, *own, world=world, launcher=launcher, trainer=trainer)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
    return compared(work / "by1", two)


def compared(one: Path, other: Path) -> dict[str, float]:
    """How far two runs over the same batches differ."""
    return {
        "steps": len(losses(one)),
        "first_loss_nats": losses(one)[0],
        "last_loss_nats": losses(one)[-1],
        "worst_relative_difference": worst_difference(losses(one), losses(other)),
        "worst_difference_of_norms": worst_difference(norms(one), norms(other)),
        "clipped_steps": sum(norm > 1.0 for norm in norms(one)),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        found = {
            trainer: two_against_one(Path(work), *sys.argv[1:], trainer=trainer)
            for trainer in ("ddp_cpu", "fsdp_cpu")
        }
        print(json.dumps(found))
