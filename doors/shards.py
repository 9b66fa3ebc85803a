"""One evaluation by several processes: who traces what, and when all of them are done.

``shard=i/n`` says it by hand; torchrun and srun say it by their environment variables, and then the
first process waits for the others and grades. They meet in one folder only: what is done is said by
files in it.
"""

import os
import time
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from data.index import write_whole
from doors.ranks import agreed
from tracing.benchmarks.remembered import Shard

LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
POLL_S = 2.0


def shard_by_hand(given: str | None) -> Shard | None:
    """What ``shard=i/n`` says.

    Raises:
        ValueError: it is not two whole numbers with 0 <= i < n.
    """
    if given is None:
        return None
    index, slash, count = str(given).partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(
            f"shard={given} is not i/n with 0 <= i < n; of three processes the first is shard=0/3, "
            "the last shard=2/3."
        )
    return Shard(int(index), int(count))


def shard_by_launcher() -> Shard | None:
    """The share of this process among those that torchrun or srun started; None: it is alone."""
    for rank, world in LAUNCHERS:
        if rank in os.environ and int(os.environ.get(world, 1)) > 1:
            return Shard(int(os.environ[rank]), int(os.environ[world]))
    return None


def own_device(device: str) -> str:
    """``cuda`` as the one of this process among those of its machine."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    return f"cuda:{local}" if device == "cuda" and local and shard_by_launcher() else device


def unmark(folder: Path, shard: Shard) -> None:
    """Take back what ``mark_done`` said in an earlier run."""
    _marker(folder, shard.index, shard.count).unlink(missing_ok=True)


def mark_done(folder: Path, shard: Shard) -> None:
    """Say that this shard is traced."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(_marker(folder, shard.index, shard.count), b"done\n")


def wait_for_others(folder: Path, shard: Shard, wait_s: float, console: Console) -> None:
    """Return when all shards are done.

    Raises:
        ValueError: for ``wait_s`` seconds nothing in the folder changed.
    """
    last_sign, seen, said = time.monotonic(), _signs_of_life(folder), False
    while waiting := [
        i for i in range(shard.count) if not _marker(folder, i, shard.count).is_file()
    ]:
        if not said:
            said = True
            console.print(f"waiting for {len(waiting)} of {shard.count} shards", highlight=False)
        time.sleep(POLL_S)
        if (now := _signs_of_life(folder)) != seen:
            last_sign, seen = time.monotonic(), now
        elif time.monotonic() - last_sign > wait_s:
            shards = ", ".join(f"{i}/{shard.count}" for i in waiting)
            raise ValueError(
                f"no sign of life from shard {shards} in {folder} for {wait_s:g} s; start the same "
                "command again with the same hydra.run.dir, it goes on from what is there (slower "
                "answers than that: wait_s=SECONDS)."
            )


def _marker(folder: Path, index: int, count: int) -> Path:
    return folder / f"done_{index}_of_{count}"


def _signs_of_life(folder: Path) -> tuple[int, int]:
    """Changes whenever a process writes anything."""
    times = []
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:  # a partial file, renamed just now
            continue
    return len(times), max(times, default=0)


def evaluation_time() -> str:
    """The clock when an evaluation began, as its folder is named: the same in all its processes."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "RANK" not in os.environ:
        return f"job{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return agreed(lambda: datetime.now().strftime("%Y%m%d-%H%M%S"), "evaluation_time")


OmegaConf.register_new_resolver("evaluation_time", evaluation_time, use_cache=True, replace=True)
