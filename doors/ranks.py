"""Several processes, one run: who speaks, where all of them write, and what to say when one dies.

Processes are started by Lightning (``trainer=ddp``), by torchrun or by SLURM; what follows holds
before any process group exists, from the environment variables that each of them sets.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

AGREEMENT_S = 60  # that torchrun's processes may take to find one another
# How a collective ends when a process at its other end is gone.
LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket.*closed|remote process", re.I
)


def rank_or_any() -> int:
    """0 in exactly one of all processes that train together, the first; there is no group yet.

    The global rank where torchrun or SLURM says it. Lightning's launcher tells its processes
    their number on the node and the node's own only: then another number than 0 is one of these.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    # Lightning's launcher numbers the processes of a node; the node says which one it is.
    own = [int(os.environ[name]) for name in ("LOCAL_RANK", "NODE_RANK") if name in os.environ]
    return max(own) if own else int(os.environ.get("SLURM_PROCID", 0))


def agreed(value: Callable[[], str], key: str) -> str:
    """``value()`` of whichever process of torchrun is first; of this process where it is alone.

    Raises:
        ValueError: several processes that have no store of torchrun's agent to agree through.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        return value()
    store = _agents_store("name it: hydra.run.dir=FOLDER")
    return store.compare_set(_this_start(key), "", value()).decode()


def least_of_all(value: int, key: str) -> int:
    """The least ``value`` among torchrun's processes; that of this process where it is alone.

    Raises:
        ValueError: several processes that have no store of torchrun's agent to agree through.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if "RANK" not in os.environ or world == 1:
        return value
    store = _agents_store(f"set it: {key}={value} fits this one")
    store.set(f"{_this_start(key)}/{os.environ['RANK']}", str(value))
    return min(int(store.get(f"{_this_start(key)}/{rank}")) for rank in range(world))


def _agents_store(fix: str) -> dist.Store:
    """The store through which torchrun's processes find one another."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise ValueError(
            f"{os.environ.get('WORLD_SIZE', 'several')} processes must agree before they start "
            f"training and have no way to; {fix}."
        )
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=AGREEMENT_S),
    )


def _this_start(key: str) -> str:
    """After a restart by torchrun every question is asked anew."""
    return f"lras/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{key}"


def speak_for_rank() -> None:
    """Rank 0 logs to console and file; other ranks warn on the console, under their number."""
    if not (rank := rank_or_any()):
        return
    root = logging.getLogger()
    for name in (
        "",
        "lightning.pytorch",
        "lightning.fabric",
    ):  # Lightning's have levels of their own
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
        else:
            handler.setFormatter(logging.Formatter(f"[rank {rank}][%(levelname)s] - %(message)s"))


@contextmanager
def one_of_many() -> Iterator[None]:
    """Name the rank in a mistake's sentence, and turn the loss of another rank into one.

    Raises:
        ValueError: as it came, or in place of the error of a collective whose other end is gone.
    """
    rank = rank_or_any()
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if not rank:
            raise
        raise ValueError(f"rank {rank}: {error}") from error
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or LOST.search(str(error))
        if not (dist.is_initialized() and lost):
            raise
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
        raise ValueError(
            f"rank {rank} of {dist.get_world_size()} lost another process, whose own message "
            f"stands near this one; go on from the last checkpoint with resume=auto."
        ) from error
