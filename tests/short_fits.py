"""Fits of a tiny predictor in this process, with the callbacks that keep a run, for tests."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import lightning as L

from data.curriculum import Stage, SyntheticDataModule
from data.synthetic import SceneConfig
from doors.checkpoints import CheckedCheckpointIO, LastCheckpoint, StepCheckpoint
from lras.optim import adamw
from lras.predictor_module import PredictorModule
from tests.tiny_model import tiny_model

SCENE = SceneConfig(size=16, max_motion_px=4.0, snap_px=4)


class At(L.Callback):
    """Does something at the end of the steps it is given, after the step is counted."""

    def __init__(self, **actions: Any) -> None:
        self.actions = {int(name.removeprefix("step")): do for name, do in actions.items()}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if do := self.actions.get(trainer.global_step):
            do()


def send(number: signal.Signals):
    return lambda: os.kill(os.getpid(), number)


def largest_file(size: int):
    """Lets no file grow past so many bytes, as on a full disk; -1 lifts the limit again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def module(optimizer=adamw, seed: int = 0) -> PredictorModule:
    model = tiny_model(seed)
    return PredictorModule(model.predictor, model.quantizer, optimizer, warmup_steps=2)


def fit(
    folder: Path,
    steps: int,
    *callbacks: L.Callback,
    every: int = 2,
    resume: Path | None = None,
    own: PredictorModule | None = None,
    logger: Any = False,
    **keep: Any,
) -> PredictorModule:
    """Train for ``steps`` steps with checkpoints in ``folder``; the trained module."""
    own = own or module()
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, logger=logger, log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        plugins=[CheckedCheckpointIO()],
        callbacks=[
            LastCheckpoint(folder / "last.ckpt"), *callbacks,
            StepCheckpoint(folder, every, **keep),
        ],
    )  # fmt: skip
    data = SyntheticDataModule([Stage(steps=steps, batch=2, scene=SCENE)], textures=4)
    trainer.fit(own, data, ckpt_path=resume, weights_only=True)
    return own
