"""The checkpoints of a run: whole, checked, so many of them, and the newest one named ``last``.

``checkpoints/step_0000500.ckpt`` with its checksum beside it, and ``last.ckpt``, a link to the
newest. A checkpoint that cannot be written costs a warning; the next one is tried in its turn.
"""

import logging
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from doors.checked_files import PARTIAL, remove, write_checked
from lras.sharded_files import is_sharded, read_sharded

log = logging.getLogger("train")

NAME = "step_{step:07d}.ckpt"
STEP = re.compile(r"step_(\d+)\.ckpt")


@dataclass(frozen=True)
class Keep:
    """Which checkpoints outlive the next one."""

    last: int = 2  # the newest ones: more than one, or a damaged file would be the end
    every: int | None = None  # and those at multiples of so many steps, for good

    def __post_init__(self) -> None:
        if self.last < 1 or (self.every is not None and self.every < 1):
            raise ValueError(
                f"got keep_last={self.last} and keep_every={self.every}; at least one checkpoint "
                f"must stay, so set callbacks.checkpoint.keep_last=2 and keep_every=null."
            )


class CheckedCheckpointIO(TorchCheckpointIO):
    """Writes files whole and with a checksum; reads them and distributed checkpoints alike."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Called on rank 0 alone, so an error raised here would leave the others waiting."""
        try:
            write_checked(Path(path), partial(torch.save, checkpoint))
        except OSError as error:
            say_unwritten(path, error)

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        if is_sharded(Path(path)):
            return read_sharded(Path(path))
        return super().load_checkpoint(path, *arguments, **options)

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


class StepCheckpoint(ModelCheckpoint):
    """Writes a checkpoint every so many steps, and keeps the newest and, for good, every n-th.

    Lightning's class around it tells the loggers. It is silent when the fit ends: by then averaged
    weights may be in place, and ``LastCheckpoint`` has written what there is to write.
    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int,
        keep_last: int = 2,
        keep_every: int | None = None,  # steps
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            every_n_train_steps=every_n_train_steps,
            save_last=True,
            save_top_k=0,
            enable_version_counter=False,
        )
        self.keep = Keep(keep_last, keep_every)

    def _save_last_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        last = save_step(trainer, Path(self.dirpath), self.keep)
        self.last_model_path = str(last)
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, str(last)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: see above."""


class LastCheckpoint(L.Callback):
    """Writes a checkpoint when the fit ends at any step; ``StepCheckpoint`` knows round ones only.

    It stands first among the callbacks: others put averaged weights in place at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path  # of the link to it

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        save_step(trainer, self.path.parent, keep_of(trainer))


def keep_of(trainer: L.Trainer) -> Keep:
    """What the run's own ``StepCheckpoint`` keeps; the default where it has none."""
    found = (each.keep for each in trainer.callbacks if isinstance(each, StepCheckpoint))
    return next(found, Keep())


def save_step(trainer: L.Trainer, folder: Path, keep: Keep) -> Path:
    """Write the checkpoint of this step, and the link to it; all ranks call it together."""
    path, last = folder / NAME.format(step=trainer.global_step), folder / "last.ckpt"
    trainer.save_checkpoint(path, weights_only=False)
    if trainer.is_global_zero and path.exists():  # or it could not be written, which was said
        try:
            point_to(last, path)
            prune(folder, trainer.global_step, keep)
        except OSError as error:
            say_unwritten(last, error)
    return last


def steps_in(folder: Path) -> dict[int, Path]:
    """Checkpoints of a run by their step, the newest first."""
    matches = [(STEP.fullmatch(path.name), path) for path in folder.glob("step_*.ckpt")]
    found = {int(match[1]): path for match, path in matches if match}
    return dict(sorted(found.items(), reverse=True))


def prune(folder: Path, now: int, keep: Keep) -> None:
    """Remove what ``keep`` does not name, and what is left of a future that did not come.

    A run that fell back behind a damaged checkpoint has such ones past its own step.
    """
    found = steps_in(folder)
    newest = [step for step in found if step <= now][: keep.last]
    for step, path in found.items():
        forever = keep.every is not None and step % keep.every == 0 and step <= now
        if step not in newest and not forever:
            remove(path)
    for leftover in folder.glob(f"step_*.ckpt{PARTIAL}"):  # of a process that was killed
        remove(leftover)


def point_to(link: Path, path: Path) -> None:
    """Make ``link`` lead to ``path``, beside it, in one move."""
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path.name)
    os.replace(fresh, link)


def say_unwritten(path: Any, error: OSError) -> None:
    log.warning(
        "%s could not be written (%s); training goes on, older checkpoints are as they were, and "
        "the next one is tried in its turn: make room on the disk.",
        path,
        error.strerror or error,
    )
