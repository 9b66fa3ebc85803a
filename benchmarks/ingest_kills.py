"""A command that is killed at random moments and typed again, as often as it takes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VICTIMS = ("all", "command", "worker")  # with its processes; it alone; one of its processes


def start(command: list[str]) -> subprocess.Popen:
    """``python COMMAND`` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, timeout_s: float = 120) -> None:
    """Wait for its good end; RuntimeError with its words at a bad one."""
    _, words = process.communicate(timeout=timeout_s)
    if process.returncode:
        raise RuntimeError(f"ended with status {process.returncode}: {words[-2000:]}")


def run_with_kills(command: list[str], out: Path, kills: int, seed: int, within_s: float) -> int:
    """Type the command until it ends well, killing it ``kills`` times by SIGKILL; how many hit.

    Each time up to ``within_s`` seconds after the first claim on a task is seen, drawn from the
    seed, as is who is killed (``VICTIMS``).
    """
    draw, hits = random.Random(seed), 0
    for _ in range(kills):
        process = start(command)
        if not _wait_for_claim(process, out):
            break
        time.sleep(draw.uniform(0, within_s))
        victim = draw.choice(VICTIMS)
        if process.poll() is not None:
            break
        hits += 1
        children = _children(process.pid)
        if victim == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "command" or not children:
            process.kill()
        else:
            os.kill(draw.choice(children), signal.SIGKILL)
            time.sleep(draw.uniform(0, within_s))
            process.kill()
        process.communicate()
    finish(start(command))
    return hits


def _wait_for_claim(process: subprocess.Popen, out: Path) -> bool:
    while process.poll() is None:
        if any((out / ".tasks").glob("0*.now")):
            return True
        time.sleep(0.002)
    return False


def _children(pid: int) -> list[int]:
    """Those of its process group that work; the fork server's own children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            is_worker = b"forkserver" in (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == pid and int(folder.name) != pid and is_worker:
            found.append(int(folder.name))
    return sorted(found)
