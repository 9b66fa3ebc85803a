"""Where a run is written: ``${run_folder:...}`` and ``${run_name:...}`` of configs/train.yaml.

Every process of a run must come to the same answer, and ``resume`` leads to a folder that is there
already; so the folder is chosen here, before hydra makes it.
"""

import os
import tempfile
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from doors.ranks import agreed
from doors.run_record import slurm_job_of

LAST = Path("checkpoints") / "last.ckpt"


def run_folder(
    runs: str, seed: int, resume: str | None, dry_run: bool, number: int | None = None
) -> str:
    """The folder of this run among ``runs``, all runs of one experiment.

    A dry run gets a temporary one, ``resume`` the one that it names or finds, and any other run a
    fresh one, named by the SLURM job or the clock, by its ``number`` in a sweep, and by its seed.
    """
    if dry_run:
        return tempfile.mkdtemp(prefix="dry-run-")
    if resume not in (None, "auto") and Path(resume).is_dir():
        return str(resume)

    def choose() -> str:
        found = newest_run(Path(runs), seed) if resume == "auto" else None
        own = "" if number is None else f"-{number}"
        return str(found or Path(runs) / f"{_name()}{own}-seed{seed}")

    return agreed(choose, "run_folder")


def run_name(runs: str, seed: int, resume: str | None, dry_run: bool, number: int) -> str:
    """The name of that folder within ``runs``, for jobs that hydra's launchers start."""
    return Path(run_folder(runs, seed, resume, dry_run, number)).name


def has_checkpoint(run: Path) -> bool:
    """Whether the run has a last checkpoint, in one file or distributed; damaged ones count."""
    return (run / LAST).exists() or (run / LAST).is_symlink()


def newest_run(runs: Path, seed: int) -> Path | None:
    """The run with this seed whose checkpoint is the youngest; None where no run has one.

    A job that SLURM has put back into the queue goes on with its own run, whatever others do, and
    if it had no checkpoint yet.
    """
    every = list(runs.glob(f"*-seed{seed}"))
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        own = [path for path in every if slurm_job_of(path) == os.environ.get("SLURM_JOB_ID")]
        if own:
            return max(own, key=lambda path: path.stat().st_mtime)
    found = [path for path in every if has_checkpoint(path)]
    return max(found, key=lambda path: (path / LAST).lstat().st_mtime, default=None)


def _name() -> str:
    # Tasks that SLURM starts side by side read clocks of their own, but know their job alike.
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return f"job{os.environ['SLURM_JOB_ID']}"
    return datetime.now().strftime("%Y%m%d-%H%M%S")


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
