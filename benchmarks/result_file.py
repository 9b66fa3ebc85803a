"""Figures that took long to measure, kept as JSON with everything needed to doubt them.

A result file under ``benchmarks/results/`` holds
    figures   what was measured: numbers (or tables of numbers), the unit in each name
    command   what to type in the repository root to measure it again; steps joined by `` && ``
    git_sha   commit it was measured at, with ``-dirty`` where the tree differed from it
    date      UTC, ISO 8601
    machine   processor, cores, accelerator, Python and torch versions
    seeds     every seed that took part
What names the figures carry is said where they are judged (``claims_main.py``).
"""

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.claim import NotMeasuredError
from tracing.benchmarks.provenance import git_sha, machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KEYS = ("figures", "command", "git_sha", "date", "machine", "seeds")
CANNOT_MEASURE_HERE = 77  # exit status of a command whose last words on stderr say what it lacks


def read_result(name: str, folder: Path | None = None) -> dict:
    """The whole file.

    Raises:
        NotMeasuredError: there is no such file.
        ValueError: it is no JSON, or one of its six keys is missing or empty.
    """
    path = (folder or RESULTS) / name
    if not path.is_file():
        raise NotMeasuredError(f"no result file {path.name} yet")
    try:
        result = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON ({error}); measure it again with --rerun.") from None
    missing = [key for key in KEYS if key not in result or result[key] in ("", [], {}, None)]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}; a figure without it proves nothing.")
    return result


def write_result(
    name: str,
    figures: dict,
    command: str,
    seeds: list[int],
    folder: Path | None = None,
    sha: str | None = None,
) -> Path:
    """Write a result file whole or not at all; where and when it was made is filled in here.

    ``sha`` is the commit the figures were measured at, where that is not the commit of this moment.
    """
    result = {
        "figures": figures,
        "command": command,
        "git_sha": sha or git_sha(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "seeds": seeds,
    }
    path = (folder or RESULTS) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".json.part")
    with scratch.open("w") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    return path


def figures_of(evaluation: dict) -> dict:
    """Figures of scenes from an evaluation's ``results.json`` (schema: tracing/results_schema.py).

    Controls lose the ``kl_`` in front of their names. Minutes and what else a promise asks for
    are the caller's to add.
    """
    rows = {row["name"]: row for row in evaluation["tracers"]}
    controls = {row["name"].removeprefix("kl_"): row for row in evaluation["controls"]}
    figures = {
        "epe_px": {name: row["epe"] for name, row in (rows | controls).items()},
        "num_points": evaluation["dataset"]["num_points"],
        "target_revealed_share": rows["kl"]["target_revealed_share"],
    }
    paired = rows.get("rgb", {}).get("paired_vs")
    if paired and paired["name"] == "kl":
        figures["rgb_minus_kl_ci95_px"] = paired["interval"]
    return figures


def run_again(command: str, path: Path) -> None:
    """Run the steps of a recorded command in the repository root, without a shell.

    ``python`` stands for the interpreter that is running now.

    Raises:
        NotMeasuredError: a step ended with ``CANNOT_MEASURE_HERE``; carries its last words.
        RuntimeError: a step failed, or the file at ``path`` was not written anew.
    """
    before = path.stat().st_mtime_ns if path.is_file() else None
    for step in command.split(" && "):
        words = shlex.split(step)
        words = [sys.executable if word == "python" else word for word in words[:1]] + words[1:]
        try:
            status, last_words = _run(words)
        except OSError as error:
            raise RuntimeError(f"`{step}` could not be run: {error.strerror}") from None
        if status == CANNOT_MEASURE_HERE:
            raise NotMeasuredError(last_words or f"`{step}` cannot be measured here")
        if status:
            raise RuntimeError(f"`{step}` ended with status {status}")
    if not path.is_file() or path.stat().st_mtime_ns == before:
        raise RuntimeError(f"`{command}` did not write {path.name}")


def _run(words: list[str]) -> tuple[int, str]:
    """Exit status and last line on stderr, which is passed on as it comes."""
    last = ""
    pipe = {"stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    with subprocess.Popen(words, cwd=ROOT, **pipe) as process:
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    return process.returncode, last
