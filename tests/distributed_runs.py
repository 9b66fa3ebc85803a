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
    "~callbacks.probe",
    "~callbacks.progress",
)


def train(
    folder: Path | None, *words: str, world: int = 1, launcher: str = "lightning"
) -> subprocess.CompletedProcess:
    """``train.py`` with ``words``, by ``world`` processes; into its own folder if None is named."""
    words = ("train.py", *words, *((f"hydra.run.dir={folder}",) if folder else ()))
    if world > 1:
        words += ("trainer=ddp_cpu", f"trainer.devices={world}")
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}")
    command = [sys.executable, *(torchrun if launcher == "torchrun" else ()), *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


def losses(folder: Path) -> list[float]:
    """Training loss of every logged step of a run, nats per code."""
    with (folder / "metrics.csv").open() as file:
        column = [row.get("train/nats_per_code") for row in csv.DictReader(file)]
    return [float(value) for value in column if value]


def worst_difference(one: list[float], other: list[float]) -> float:
    """Largest relative difference of two curves of the same length."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


def two_against_one(work: Path, *words: str, launcher: str = "lightning") -> dict[str, float]:
    """Train on the same batches by one and by two processes; how far their losses differ."""
    quantizer = work / "quantizer"
    runs = [
        (quantizer, 1, ()),
        *((work / f"by{n}", n, (f"quantizer={quantizer}",)) for n in (1, 2)),
    ]
    for folder, world, given in runs:
        done = train(folder, *TWENTY_STEPS, *words, *given, world=world, launcher=launcher)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
    one, two = losses(work / "by1"), losses(work / "by2")
    return {
        "steps": len(one),
        "first_loss_nats": one[0],
        "last_loss_nats": one[-1],
        "worst_relative_difference": worst_difference(one, two),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(two_against_one(Path(work), *sys.argv[1:])))
