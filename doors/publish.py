"""Make a finished run a reference model: ``python -m doors.publish RUN checkpoints/NAME``.

Its export, with all that it was made from in config.json and no folder of this machine, and a model
card beside it. The folder is replaced as a whole or left as it was.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from doors import one_sentence
from doors.branching import kept_branch
from doors.lineage import config_of, lineage_of
from doors.model_card import write_card
from doors.run_record import RECORD
from lras.export_files import check_folder, is_export, read_export, write_export
from tracing.benchmarks.provenance import NOT_A_CHECKOUT

MOST_BYTES = 20_000_000  # of all models that stand side by side


def publish(run: Path, folder: Path) -> Path:
    """Write the model of ``run`` to ``folder``; returns it.

    Raises:
        FileNotFoundError, ValueError: the run is unfinished, code of it or of a run that it was
            started from is in no commit, over 20 MB would stand side by side, or ``folder`` is
            somebody else's.
    """
    _recover(folder)
    check_finished(run)
    parts = lineage_of(run)
    for part in parts:
        check_commit(part)
    check_folder(folder)
    about, weights = read_export(run / "export")
    note = parts[-1] | {"made_from": parts[:-1], "goes": _goes(run)}
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        write_export(scratch, about | {"note": note}, weights)
        write_card(scratch, name=folder.name)
        check_size(scratch, folder)
        _replace(folder, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def check_finished(run: Path) -> None:
    """Raise ValueError unless the run has an export of its last step."""
    cfg = config_of(run)
    if not is_export(run / "export"):
        raise ValueError(f"{run} is unfinished: it has no export; go on with resume={run}.")
    branch = kept_branch(run)
    planned = branch.end if branch else cfg.trainer.max_steps
    planned = planned or instantiate(cfg.data, _convert_="object").total_steps
    step = read_export(run / "export")[0].get("note", {}).get("step", 0)
    if step < planned:
        raise ValueError(
            f"{run} is unfinished: it stopped at step {step} of {planned}; go on with resume={run}."
        )


def check_commit(part: dict[str, Any]) -> None:
    """Raise ValueError unless the note names the commit of the code that trained."""
    sha = part.get("git_sha", NOT_A_CHECKOUT)
    if sha == NOT_A_CHECKOUT or sha.endswith("-dirty"):
        raise ValueError(
            f"`{part.get('command', 'a run')}` was trained by code that is in no commit (git sha: "
            f"{sha}), so nobody could make it again; commit, and train from a clean checkout."
        )


def check_size(made: Path, folder: Path) -> None:
    """Raise ValueError if ``made`` in place of ``folder``, and those beside it, are too much."""
    others = [path for path in folder.parent.iterdir() if path not in (folder, made)]
    others = [path for path in others if not path.name.startswith(".")]  # not models: on their way
    beside = sum(size_of(path) for path in others if path.is_dir() and is_export(path))
    if (total := beside + size_of(made)) > MOST_BYTES:
        raise ValueError(
            f"{folder.name} has {size_of(made) / 1e6:.1f} MB, which makes {total / 1e6:.1f} MB in "
            f"{folder.parent}, and at most {MOST_BYTES / 1e6:.0f} may be there; train a smaller "
            f"model, or take another away first."
        )


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _goes(run: Path) -> int:
    """How many commands it took: seconds in a note are those of the last."""
    record = run / RECORD
    return len(json.loads(record.read_text())) if record.is_file() else 1


def _older(folder: Path) -> Path:
    """Where the model that is replaced waits until the new one is in its place."""
    return folder.with_name(f".{folder.name}.old")


def _recover(folder: Path) -> None:
    """Put back what a process that was killed while it replaced the model had moved away."""
    if _older(folder).is_dir() and not folder.exists():
        _older(folder).rename(folder)


def _replace(folder: Path, made: Path) -> None:
    old = _older(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.is_dir():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m doors.publish", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, help="folder of a finished training run")
    parser.add_argument("folder", type=Path, help="checkpoints/NAME: new, or an older model's")
    asked = parser.parse_args()
    with one_sentence(lambda: None):
        folder = publish(asked.run, asked.folder)
        print(f"written: {folder} ({size_of(folder) / 1e6:.1f} MB)")
        print(f"next: python benchmarks/measure_reference.py {folder.name}")


if __name__ == "__main__":
    main()
