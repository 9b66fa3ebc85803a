"""FlowProbe: zero-shot flow of the model in training, measured while training goes on.

Every N steps the same held-out queries are traced through the weights of the moment. The probe
draws nothing from global random state and leaves the module as it found it, so a run with the
probe trains the same weights as one without.
"""

import json
import logging
import os
from pathlib import Path

import lightning as L
import torch

from data.types import PointPairs
from tracing.baselines import DIS, ZeroMotion
from tracing.benchmarks.base import evaluate, readout_floor
from tracing.config import TracerConfig
from tracing.kl_tracer import KLTracer

log = logging.getLogger(__name__)


class FlowProbe(L.Callback):
    """Logs ``flow/<set>/{epe,median,hit,delta_avg,ratio_to_zero,zero_epe,dis_epe,floor,seconds}``.

    ``pl_module.next_frame()`` must give a model of ``tracing.protocol``. The history is kept in
    ``probe.json`` in the trainer's root folder, for the report's curve.
    """

    def __init__(
        self,
        sets: dict[str, PointPairs],
        every_n_steps: int = 200,
        tracer: TracerConfig | None = None,
        seed: int = 0,
        max_batch: int = 64,
    ) -> None:
        super().__init__()
        empty = [name for name, pairs in sets.items() if not bool(pairs.valid.any())]
        if not sets or empty:
            raise ValueError(
                f"the flow probe has no query points in {empty or 'any set, since none is named'}; "
                f"name at least one set with valid points."
            )
        self.sets, self.every_n_steps, self.seed = sets, every_n_steps, seed
        self.cfg, self.max_batch = tracer or TracerConfig(num_masks=4), max_batch
        self.history: list[dict[str, float]] = []
        self._baselines: dict[str, dict[str, float]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:  # the curve begins with the untrained model
            self.probe(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if due and (not self.history or self.history[-1]["step"] != step):
            self.probe(trainer, pl_module)

    def probe(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        """Trace every set now, log the scores and return them."""
        training = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        scores: dict[str, float] = {}
        try:
            # Full precision whatever the trainer's: a KL of 1e-4 nats is nothing to bfloat16.
            with torch.no_grad(), torch.autocast(pl_module.device.type, enabled=False):
                tracer = KLTracer(pl_module.next_frame(), self.cfg, self.max_batch)
                for name, pairs in self.sets.items():
                    on_device = _to(pairs, pl_module.device)
                    scores |= {
                        f"flow/{name}/{key}": value
                        for key, value in self._score(tracer, name, on_device).items()
                    }
        finally:
            for module, was_training in training.items():
                module.training = was_training
        pl_module.log_dict(scores, logger=False)  # for callbacks that watch a score
        for logger in trainer.loggers:  # the module's own would repeat them under later steps
            logger.log_metrics(scores, step=trainer.global_step)
        self.history.append({"step": trainer.global_step} | scores)
        if trainer.is_global_zero:
            self._write(Path(trainer.default_root_dir))
            epes = {name: f"{scores[f'flow/{name}/epe']:.2f} px" for name in self.sets}
            log.info("step %d: EPE %s", trainer.global_step, epes)
        return scores

    def _score(self, tracer: KLTracer, name: str, pairs: PointPairs) -> dict[str, float]:
        patch_px = tracer.model.patch_px
        if name not in self._baselines:
            zero, dis = evaluate([ZeroMotion(), DIS()], pairs, self.seed, patch_px=patch_px)
            floor = readout_floor(pairs, patch_px, self.cfg.placement)
            self._baselines[name] = {"zero_epe": zero.epe, "dis_epe": dis.epe, "floor": floor}
        (row,) = evaluate([tracer], pairs, self.seed, patch_px=patch_px)
        kept = ("epe", "median", "hit", "delta_avg", "ratio_to_zero", "seconds")
        return {key: float(getattr(row, key)) for key in kept} | self._baselines[name]

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".probe.json"
        unfinished.write_text(json.dumps(self.history, indent=1) + "\n")
        os.replace(unfinished, folder / "probe.json")

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict) -> None:
        self.history = list(state_dict["history"])


def _to(pairs: PointPairs, device: torch.device) -> PointPairs:
    fields = ("frame0", "frame1", "points", "target", "visible", "valid")
    return PointPairs(**{f: getattr(pairs, f).to(device) for f in fields}, name=pairs.name)
