"""Speed of a training as train.py builds it: so many steps timed in one span, after a warm-up."""

import time
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from benchmarks.shipped import fresh_module, shipped_trainer, wait_for
from doors.building import build_data
from lras.flops import group_tokens
from lras.predictor_module import PredictorModule


class Span(L.Callback):
    """Times ``steps`` steps after ``warm_up`` ones; ``more`` follow, and the training ends.

    The device is waited for at both ends of the span and nowhere within.
    """

    def __init__(self, warm_up: int, steps: int, more: int = 0) -> None:
        self.warm_up, self.steps, self.more = warm_up, steps, more
        self.seconds, self.tokens = 0.0, 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: PredictorModule,
        outputs: object,
        batch: dict,
        *_: object,
    ) -> None:
        step = trainer.global_step - self.warm_up
        if 0 < step <= self.steps:
            self.tokens += tokens_of(pl_module, batch)
        if step == 0:
            wait_for(pl_module.device)
            self.begin()
        elif step == self.steps:
            wait_for(pl_module.device)
            self.end()
        if step == self.steps + self.more:
            trainer.should_stop = True

    def begin(self) -> None:
        self.since = time.perf_counter()

    def end(self) -> None:
        self.seconds = time.perf_counter() - self.since


def tokens_of(module: PredictorModule, batch: dict) -> int:
    """Tokens of all training sequences of a batch."""
    cfg, (pairs, placed, kept) = module.predictor.cfg, module.sizes_of(batch)
    return pairs * (placed * group_tokens(cfg, 0) + kept * group_tokens(cfg, 1))


def with_scenes(cfg: DictConfig, folder: Path, warm_up: int, steps: int) -> Span:
    """Steps on scenes as they are drawn for this training: by its workers, or in between."""
    data, _ = build_data(cfg)
    span = Span(warm_up, steps)
    module, trainer = fresh_module(cfg, folder), shipped_trainer(cfg, folder, span)
    trainer.fit(module, data)
    return span
