"""A training that is told to go: it finishes its step, writes a checkpoint, and says so.

SLURM sends SIGTERM before it takes a node away and, with ``--signal=USR1@120``, SIGUSR1 before the
time is up; submitit asks with SIGUSR2. Any of them ends the run with exit status ``EXIT_STATUS``,
and the same command with ``resume=auto`` goes on in the same folder and the same W&B run.
"""

import logging
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint

from doors.checkpoints import keep_of, save_step

log = logging.getLogger("train")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EXIT_STATUS = 75  # sysexits.h: EX_TEMPFAIL, try again
REQUEUE_TIMEOUT_S = 30


class Preemption(Checkpoint):
    """Ends the run after the step in which any rank is sent one of ``SIGNALS``.

    With ``requeue`` rank 0 then puts its SLURM job back into the queue. The base class puts it
    behind other callbacks, so the checkpoint holds what they made of this step.
    """

    def __init__(self, dirpath: str | Path, requeue: bool = False) -> None:
        self.folder, self.requeue = Path(dirpath), requeue
        self.received: str | None = None
        self.leaving = False
        self.left_at: int | None = None  # step of the checkpoint that was written for it
        self.ranks = _Ranks()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # In place of Lightning's: theirs talks to other ranks from within the handler, and has
        # every step wait for the device to hear of it.
        for each in SIGNALS:
            signal.signal(each, self._receive)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        self.ranks.begin()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.leaving |= self.ranks.any(self.received is not None)
        # Gradients that wait for others of their step are in no checkpoint.
        if not self.leaving or (index + 1) % trainer.accumulate_grad_batches:
            return
        save_step(trainer, self.folder, keep_of(trainer))
        self.left_at = trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Leave, now that the loggers have had the figures of the last step."""
        if self.left_at is None:
            return
        if not trainer.is_global_zero:
            # Lightning's launcher kills all of them when another than the first one fails.
            raise SystemExit(0)
        log.warning(
            "%s came, so the run stopped at step %d with exit status %d; go on with resume=auto.",
            self.received or "a signal to another rank",
            self.left_at,
            EXIT_STATUS,
        )
        if self.requeue:
            put_back_into_the_queue()
        raise SystemExit(EXIT_STATUS)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ranks.end()

    def _receive(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number).name


class _Ranks:
    """Whether any rank says yes: asked at the end of a step, answered at the end of the next.

    So nobody waits, neither for other ranks nor for the device: the question goes over the CPU.
    """

    def __init__(self) -> None:
        self.group, self.asked = None, None

    def begin(self) -> None:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo")

    def any(self, own: bool) -> bool:
        if self.group is None:
            return own
        answer = False
        if self.asked is not None:
            work, flag = self.asked
            work.wait()
            answer = bool(flag.item())
        flag = torch.tensor([int(own)])
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.group, async_op=True)
        self.asked = (work, flag)
        return answer

    def end(self) -> None:
        """Hear the last answer, so that nobody leaves while others still talk."""
        if self.asked is not None:
            self.asked[0].wait()
            self.asked = None


def put_back_into_the_queue() -> None:
    """``scontrol requeue`` of this SLURM job; a warning where there is none, or it is refused."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = "_".join(job) if all(job) else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"[0-9_]+", name):
        log.warning("requeue was asked for, but this is no SLURM job; start the command again.")
        return
    command = ["scontrol", "requeue", name]
    try:
        subprocess.run(command, check=True, timeout=REQUEUE_TIMEOUT_S, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s failed (%s); start the job again by hand.", " ".join(command), error)
        return
    log.info("SLURM job %s is back in the queue.", name)
