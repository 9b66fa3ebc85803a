"""Where a run is written: ``${run_folder:...}`` of configs/train.yaml.

Every process of a run must come to the same answer, and ``resume`` leads to a folder that is there
already; so the folder is chosen here, before hydra makes it.
"""

import os
import tempfile
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from doors.ranks import agreed

LAST = Path("checkpoints") / "last.ckpt"


def run_folder(runs: str, seed: int, resume: str | None, dry_run: bool) -> str:
    """The folder of this run among ``runs``, all runs of one experiment.

    A dry run gets a temporary one, ``resume`` the one that it names or finds, and any other run a
    fresh one, named by the SLURM job or the clock, and by its seed.
    """
    if dry_run:
        return tempfile.mkdtemp(prefix="dry-run-")
    if resume not in (None, "auto") and Path(resume).is_dir():
        return str(resume)

    def choose() -> str:
        found = newest_run(Path(runs), seed) if resume == "auto" else None
        return str(found or Path(runs) / f"{_name()}-seed{seed}")

    return agreed(choose, "run_folder")


def newest_run(runs: Path, seed: int) -> Path | None:
    """The run with this seed whose checkpoint is the youngest; None where no run has one."""
    found = [path for path in runs.glob(f"*-seed{seed}") if (path / LAST).is_file()]
    return max(found, key=lambda path: (path / LAST).stat().st_mtime, default=None)


def _name() -> str:
    # Tasks that SLURM starts side by side read clocks of their own, but know their job alike.
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return f"job{os.environ['SLURM_JOB_ID']}"
    return datetime.now().strftime("%Y%m%d-%H%M%S")


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
