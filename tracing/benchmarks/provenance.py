"""What a result file must say of its making: command, code, seed, machine, time."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import cv2
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_A_CHECKOUT = "not a git checkout"


def provenance(seed: int, command: str | None = None) -> dict:
    """JSON-ready record; ``command`` defaults to the one that started this process."""
    return {
        "command": command or shlex.join(["python", *sys.argv]),
        "git_sha": git_sha(),
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
    }


def git_sha(repository: Path = REPOSITORY) -> str:
    """Commit the code stands at, with ``-dirty`` when files differ from it."""
    top = _git(repository, "rev-parse", "--show-toplevel")
    sha = _git(repository, "rev-parse", "HEAD")
    # An installation inside some other project's checkout must not borrow that project's commit.
    if not sha or Path(top).resolve() != repository.resolve():
        return NOT_A_CHECKOUT
    # Results of earlier runs do not change what is measured.
    changed = _git(repository, "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return f"{sha}-dirty" if changed else sha


def machine() -> dict[str, str | int]:
    """Processor, cores this process may use, accelerator and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    record = {
        "cpu": _cpu_model(),
        "cores": cores or 1,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,  # DIS depends on it
    }
    if torch.cuda.is_available():
        record["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return record


def _git(repository: Path, *arguments: str) -> str:
    """Output of a git command, empty where it fails or git is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
