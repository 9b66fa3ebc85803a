"""FlowProbe: zero-shot flow of the model in training, logged while training goes on.

Every so often the same held-out queries are traced through the weights of the moment. The probe
draws nothing from global random state and leaves the module as it found it, so a run with the
probe trains the same weights as one without.
"""

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from tracing.benchmarks.base import Tracer
from tracing.benchmarks.evaluation import on_device
from tracing.config import TracerConfig
from tracing.probe.budget import Budget
from tracing.probe.pictures import probe_picture
from tracing.probe.ranks import answers_of_all_ranks
from tracing.probe.scores import Answer, baseline_scores, scores
from tracing.probe.sets import ProbeSet
from tracing.probe.weights import Weights, probed_model
from tracing.tracers import kl_tracer
from tracing.visualize import probe_figure, save_png

log = logging.getLogger(__name__)
TABLE = ("epe", "median", "delta_avg", "ad", "oa", "aj", "hit", "peak_kl", "zero_epe", "dis_epe")


class FlowProbe(L.Callback):
    """Logs ``flow/<set>/<figure>``; ``scores.scores`` and ``baseline_scores`` say what they are.

    Probes at step 0 and at the last step, whatever they cost, and at every multiple of
    ``every_n_steps`` and every end of validation that ``max_share`` affords: by the last step all
    probes together have taken at most this share of the rest of the time (null: no bound). A run
    that is very short, or stopped before its last step, pays more for its first probe.

    Callbacks can watch any score in ``trainer.callback_metrics``, and ``probe/step``, the step
    that all of them belong to. The parts of a set are split over ranks; every rank gets the same
    scores. ``weights="ema"`` looks at what a
    WeightAveraging callback keeps. ``pl_module.next_frame()`` must give a model of
    ``tracing.protocol`` (and ``whole_next_frame()`` too, if its weights are sharded). The history
    is kept in ``probe.json`` in the trainer's root folder, and drawn as ``probe.png`` at the end.
    """

    def __init__(
        self,
        sets: dict[str, Any],  # by name, a ProbeSet or what makes one; None is left out
        every_n_steps: int = 50,
        tracer: TracerConfig | None = None,
        seed: int = 0,  # of the reveal masks
        max_batch: int | None = None,  # rows of a forward where a model cannot fork; None: 8 or 64
        max_share: float | None = 0.03,
        weights: Weights = "raw",
        pictures: int = 1,  # of so many frame pairs in each set
        at_validation_end: Literal["afford", "always", "never"] = "afford",
    ) -> None:
        super().__init__()
        self.sets = {name: made(name, probe) for name, probe in sets.items() if probe is not None}
        if not self.sets:
            raise ValueError(
                "the flow probe has no set; name one, probe_set=[held_out], or drop the probe with "
                "callbacks.probe=null."
            )
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}; the probe needs a step or more.")
        if at_validation_end not in ("afford", "always", "never"):
            raise ValueError(
                f"at_validation_end={at_validation_end!r}; use afford, always or never."
            )
        self.every_n_steps, self.seed = every_n_steps, seed
        self.cfg, self.max_batch = tracer or TracerConfig(num_masks=4), max_batch
        self.weights, self.pictures = weights, pictures
        self.at_validation_end = at_validation_end
        self.budget = Budget(max_share)
        self.history: list[dict[str, float | int]] = []
        self.answers: dict[str, list[Answer]] = {}  # of the last probe, by set
        self._baselines: dict[str, dict[str, float]] = {}

    # --- when -------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, probe in self.sets.items():
            log.info("probe set %s: %s", name, probe.about)
        if self.history:  # a resumed run: whoever watches a score finds the last one
            self._show_callbacks(trainer, self.history[-1])
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
        step = trainer.global_step
        if self.at_validation_end == "never" or trainer.sanity_checking or not self._is_new(step):
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        sure = self.at_validation_end == "always" or not fitting or step == trainer.max_steps
        if sure or self._all_afford(trainer):
            self.probe(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and any("epe" in key for key in self.history[-1]):
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
            device = next(model.parameters()).device
            max_batch = self.max_batch or (8 if device.type == "cpu" else 64)
            tracer = kl_tracer(model, self.cfg, max_batch=max_batch)
            for name in self.sets:
                own, drawn[name] = self._probe_set(tracer, name, device, trainer.is_global_zero)
                figures |= {f"flow/{name}/{key}": value for key, value in own.items()}
            self.history.append({"step": trainer.global_step} | figures)
            self._log(trainer, figures, drawn)
        return figures

    def _probe_set(
        self, tracer: Tracer, name: str, device: torch.device, speaks: bool
    ) -> tuple[dict[str, float], list]:
        """Figures of one set and its pictures; none of either where tracing failed.

        Raises:
            ValueError: the very first tracing failed for a reason that will not go away.
        """
        started, probe = time.perf_counter(), self.sets[name]

        def trace(part: int) -> Answer:
            pair = on_device(probe.shown[part], str(device))
            traces = tracer(pair.frame0, pair.frame1, pair.points, seed=self.seed + part)
            pictured = part < self.pictures
            return Answer(
                part=part,
                xy=traces.xy[0].float().cpu(),
                peak_kl=traces.peak_kl[0].cpu(),
                attempt=traces.attempt[0].cpu(),
                flipped_codes=traces.flipped_codes[0].cpu(),
                maps=traces.maps[0].float().cpu() if pictured else None,
            )

        answers, problem = answers_of_all_ranks(range(len(probe.shown)), trace)
        self.answers[name] = answers
        if problem and not self.history and problem.startswith("ValueError"):
            raise ValueError(f"the probe set {name} does not fit the model: {problem}")
        if problem:
            if speaks:
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
        if lost and speaks:
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
        self._show_callbacks(trainer, self.history[-1])
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

    def _show_callbacks(self, trainer: L.Trainer, point: dict[str, float | int]) -> None:
        shown = {("probe/step" if key == "step" else key): value for key, value in point.items()}
        trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in shown.items()})

    def table(self) -> tuple[list[str], list[list]]:
        """Columns and rows of all probes so far, one row for each set and step."""
        rows = [
            [point["step"], name, *(point.get(f"flow/{name}/{key}", math.nan) for key in TABLE)]
            for point in self.history
            for name in self.sets
            if f"flow/{name}/epe" in point
        ]
        return ["step", "set", *TABLE], rows

    def _write(self, folder: Path) -> None:
        unfinished = folder / ".probe.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(self.history, indent=1) + "\n")
            os.replace(unfinished, folder / "probe.json")
        except OSError as error:  # a full disk ends no training; the history is in checkpoints too
            log.warning("probe.json could not be written (%s); training goes on.", error.strerror)

    def state_dict(self) -> dict:
        return {"history": self.history, "budget": self.budget.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        self.history = list(state_dict["history"])
        if "budget" in state_dict:
            self.budget.load_state_dict(state_dict["budget"])


def made(name: str, source: Any) -> ProbeSet:
    """The set itself, or what its maker makes; a mistake is told under the set's name.

    Raises:
        ValueError: it cannot be made, or is only values for a set that nobody chose.
    """
    if isinstance(source, ProbeSet):
        return source
    if not callable(source):
        raise ValueError(
            f"callbacks.probe.sets.{name} has values but no source; add {name} to "
            f"probe_set=[...], or drop it with callbacks.probe.sets.{name}=null."
        )
    try:
        return source()
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"probe set {name}: {error}") from error
