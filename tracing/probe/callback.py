"""FlowProbe: zero-shot flow of the model in training, logged while training goes on.

Every so often the same held-out queries are traced through the weights of the moment. The probe
draws nothing from global random state and leaves the module as it found it, so a run with the
probe trains the same weights as one without.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from tracing.benchmarks.evaluation import on_device
from tracing.config import TracerConfig
from tracing.kl_tracer import KLTracer
from tracing.probe.budget import Budget
from tracing.probe.pictures import probe_picture
from tracing.probe.ranks import answers_of_all_ranks
from tracing.probe.scores import Answer, baseline_scores, scores
from tracing.probe.sets import ProbeSet
from tracing.probe.weights import Weights, probed_model
from tracing.visualize import probe_figure, save_png

log = logging.getLogger(__name__)
TABLE = ("epe", "median", "delta_avg", "ad", "oa", "aj", "hit", "peak_kl", "zero_epe", "dis_epe")


class FlowProbe(L.Callback):
    """Logs ``flow/<set>/<figure>``; ``scores.scores`` and ``baseline_scores`` say what they are.

    Probes at step 0, at the last step, at the end of validation, and at every multiple of
    ``every_n_steps`` that ``max_share`` affords: at the end all probes together have taken at
    most this share of the training time (null: at every multiple). The first and the last probe
    are always made, so a very short run pays more: set ``max_share`` or smaller sets.

    Any score can be monitored by ``ModelCheckpoint`` or ``EarlyStopping``. The parts of a set are
    split over ranks; every rank gets the same scores. ``weights="ema"`` looks at what a
    WeightAveraging callback keeps. ``pl_module.next_frame()`` must give a model of
    ``tracing.protocol`` (and ``whole_next_frame()`` too, if its weights are sharded). The history
    is kept in ``probe.json`` in the trainer's root folder, and drawn as ``probe.png`` at the end.
    """

    def __init__(
        self,
        sets: dict[str, Any],  # ProbeSet by name; a set that is None is left out
        every_n_steps: int = 50,
        tracer: TracerConfig | None = None,
        seed: int = 0,  # of the reveal masks
        max_batch: int = 64,
        max_share: float | None = 0.03,
        weights: Weights = "raw",
        pictures: int = 1,  # of so many frame pairs in each set
        at_validation_end: bool = True,
    ) -> None:
        super().__init__()
        self.sets = {name: probe for name, probe in sets.items() if probe is not None}
        if not self.sets:
            raise ValueError(
                "the flow probe has no set; name one, probe_set=[held_out], or drop the probe with "
                "callbacks.probe=null."
            )
        strange = [name for name, probe in self.sets.items() if not isinstance(probe, ProbeSet)]
        if strange:  # values for a set that nobody chose
            raise ValueError(
                f"callbacks.probe.sets.{strange[0]} has values but no source; add {strange[0]} to "
                f"probe_set=[...], or drop it with callbacks.probe.sets.{strange[0]}=null."
            )
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}; the probe needs a step or more.")
        self.every_n_steps, self.seed = every_n_steps, seed
        self.cfg, self.max_batch = tracer or TracerConfig(num_masks=4), max_batch
        self.weights, self.pictures = weights, pictures
        self.at_validation_end = at_validation_end
        self.budget = Budget(max_share)
        self.history: list[dict[str, float]] = []
        self.answers: dict[str, list[Answer]] = {}  # of the last probe, by set
        self._baselines: dict[str, dict[str, float]] = {}

    # --- when -------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, probe in self.sets.items():
            log.info("probe set %s: %s", name, probe.about)
        self.budget.start()
        if trainer.global_step == 0:  # the curve begins with the untrained model
            self.probe(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        step = trainer.global_step
        if self._is_new(step) and (
            step == trainer.max_steps
            or (step % self.every_n_steps == 0 and self._all_afford(trainer))
        ):
            self.probe(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not on_validation_epoch_end: until then averaged and raw weights are swapped.
        wanted = self.at_validation_end and not trainer.sanity_checking
        if wanted and self._is_new(trainer.global_step):
            self.probe(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and any(len(point) > 1 for point in self.history):
            save_png(probe_figure(self.history), Path(trainer.default_root_dir) / "probe.png")

    def _is_new(self, step: int) -> bool:
        return not self.history or self.history[-1]["step"] != step

    def _all_afford(self, trainer: L.Trainer) -> bool:
        """Rank 0's clock decides for all, or some would wait for the others for ever."""
        # Without an end to steer for, what has been spent must have been earned.
        progress = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 1.0
        return trainer.strategy.broadcast(self.budget.affords(progress))

    # --- what -------------------------------------------------------------------------------

    def probe(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        """Trace every set now, log the scores and return them; all ranks must take part."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # training's own work is not the probe's
        figures: dict[str, float] = {}
        drawn: dict[str, list] = {}
        with self.budget.spending(), probed_model(trainer, pl_module, self.weights) as model:
            tracer = KLTracer(model, self.cfg, self.max_batch)
            for name, probe in self.sets.items():
                own, drawn[name] = self._probe_set(tracer, name, probe, pl_module.device)
                figures |= {f"flow/{name}/{key}": value for key, value in own.items()}
            self.history.append({"step": trainer.global_step} | figures)
            self._log(trainer, figures, drawn)
        return figures

    def _probe_set(
        self, tracer: KLTracer, name: str, probe: ProbeSet, device: torch.device
    ) -> tuple[dict[str, float], list]:
        """Figures of one set and its pictures; none of either where tracing failed."""
        started = time.perf_counter()

        def trace(part: int) -> Answer:
            pair = on_device(probe.shown[part], str(device))
            traces = tracer(pair.frame0, pair.frame1, pair.points, seed=self.seed + part)
            pictured = part < self.pictures
            return Answer(
                part=part,
                xy=traces.xy[0].float().cpu(),
                peak_kl=traces.peak_kl[0].cpu(),
                flipped_codes=traces.flipped_codes[0].cpu(),
                maps=traces.maps[0].float().cpu() if pictured else None,
            )

        answers, problem = answers_of_all_ranks(range(len(probe.shown)), trace)
        self.answers[name] = answers
        if problem:
            log.warning("the probe of %s failed and is left out this time: %s", name, problem)
            return {}, []
        if name not in self._baselines:
            on_cells = self.cfg.placement == "query" and self.cfg.read_out == "all"
            map_px = tracer.model.code_px if on_cells else tracer.model.patch_px
            self._baselines[name] = baseline_scores(
                probe, tracer.model.patch_px, self.cfg.placement, map_px
            )
        figures = scores(probe, answers, tracer.model.patch_px) | self._baselines[name]
        lost = sum(int((~answer.peak_kl.isfinite()).sum()) for answer in answers)
        if lost:
            log.warning(
                "the probe of %s: %d of %d points have a KL that is no number, so its scores say "
                "nothing; look at the training loss.",
                name,
                lost,
                probe.num_points,
            )
        figures["seconds"] = time.perf_counter() - started
        pictures = [
            probe_picture(probe.shown[answer.part], answer.xy, answer.maps)
            for answer in answers
            if answer.maps is not None
        ]
        return figures, pictures

    # --- where to ---------------------------------------------------------------------------

    def _log(self, trainer: L.Trainer, figures: dict[str, float], drawn: dict[str, list]) -> None:
        step = trainer.global_step
        # Straight to both: a module's own log() is not allowed in all of our hooks, and repeats
        # a value under later steps.
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in figures.items()})
        share = {"probe/share_of_training": self.budget.share} if step else {}
        for logger in trainer.loggers:
            logger.log_metrics(figures | share, step=step)
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            for name, pictures in drawn.items():
                if pictures and hasattr(logger, "log_image"):
                    captions = [f"{name}, pair {i}, step {step}" for i in range(len(pictures))]
                    logger.log_image(f"flow/{name}/picture", pictures, step=step, caption=captions)
            if hasattr(logger, "log_table"):
                columns, rows = self.table()
                logger.log_table("flow/table", columns=columns, data=rows, step=step)
        self._write(Path(trainer.default_root_dir))
        epes = {
            name: f"{figures[f'flow/{name}/epe']:.2f} px"
            for name in self.sets
            if f"flow/{name}/epe" in figures
        }
        log.info("step %d: EPE %s", step, epes)

    def table(self) -> tuple[list[str], list[list]]:
        """Columns and rows of all probes so far, one row for each set and step."""
        rows = [
            [point["step"], name, *(point[f"flow/{name}/{key}"] for key in TABLE)]
            for point in self.history
            for name in self.sets
            if f"flow/{name}/epe" in point
        ]
        return ["step", "set", *TABLE], rows

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".probe.json"
        unfinished.write_text(json.dumps(self.history, indent=1) + "\n")
        os.replace(unfinished, folder / "probe.json")

    def state_dict(self) -> dict:
        return {"history": self.history, "budget": self.budget.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        self.history = list(state_dict["history"])
        if "budget" in state_dict:
            self.budget.load_state_dict(state_dict["budget"])
