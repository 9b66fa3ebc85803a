"""The Weights & Biases logger. W&B being absent, down or without a key never kills a run."""

import functools
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, DummyLogger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from doors.loggers.metrics_csv import written_whole

log = logging.getLogger(__name__)
warn = rank_zero_only(log.warning)


def wandb_run(**options: Any) -> Logger:
    """A ``WandbRun``; one warning and a logger that does nothing where wandb is not installed."""
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        warn(
            "nothing is logged to W&B, because %s; type pip install wandb before the next run.",
            _first_line(error),
        )
        return DummyLogger()
    return WandbRun(**options)


def survives(method: Callable) -> Callable:
    """The method on rank 0 only; if W&B fails in it, one warning, and training goes on."""

    @rank_zero_only
    @functools.wraps(method)
    def guarded(self: "WandbRun", *args: Any, **kwargs: Any) -> None:
        if isinstance(self.experiment, DummyExperiment):  # W&B never began, and said so
            return
        try:
            method(self, *args, **kwargs)
        # As broad as that on purpose: whatever goes wrong in there, it is not worth a run.
        except Exception as error:
            self._complain_once(method.__name__, error)

    return guarded


class WandbRun(WandbLogger):
    """One W&B run per run folder, online or offline; a resumed training goes on in it.

    The id stands in ``wandb_id.txt``. W&B's charts run over ``trainer/global_step``, so what a
    resumed training logs again lies on top of what was there. Checkpoints become artifacts with
    ``log_model`` true (the last ones, at the end) or ``all``; offline they are copied into the run
    folder and go up with the rest. Nothing is ever asked at the keyboard.

    ``init_timeout_s`` bounds the wait for the server, after which the run is logged offline;
    ``finish_timeout_s`` bounds the wait for the last uploads. What is not uploaded stays on disk.
    Further ``options`` (``entity``, ``tags``, ...) are those of ``wandb.init``.
    """

    def __init__(
        self,
        *,
        save_dir: str | Path,
        offline: bool = True,
        log_model: bool | Literal["all"] = False,
        name: str | None = None,
        init_timeout_s: float = 30.0,
        finish_timeout_s: float = 30.0,
        **options: Any,
    ) -> None:
        folder = Path(save_dir)
        name = name or "/".join(folder.absolute().parts[-2:])
        super().__init__(save_dir=folder, log_model=log_model, name=name, **options)
        self._wandb_init.pop("anonymous")  # Lightning still passes it; W&B has dropped it
        # subtle: set here, because Lightning refuses to log checkpoints offline; W&B keeps them.
        self._offline = offline
        self._timeouts = {"init_timeout": init_timeout_s, "finish_timeout": finish_timeout_s}
        self._complaints: set[str] = set()

    log_metrics = survives(WandbLogger.log_metrics)
    log_image = survives(WandbLogger.log_image)
    log_table = survives(WandbLogger.log_table)
    log_hyperparams = survives(WandbLogger.log_hyperparams)
    after_save_checkpoint = survives(WandbLogger.after_save_checkpoint)
    finalize = survives(WandbLogger.finalize)

    @survives
    def log_summary(self, values: dict[str, Any]) -> None:
        self.experiment.summary.update(values)

    @survives
    def close(self) -> None:
        self.experiment.finish()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``wandb.Run``, begun when first asked for; a dummy if W&B cannot even write files."""
        if self._experiment is None:
            self._experiment = self._begin()
        return self._experiment

    def _begin(self) -> Any:
        import wandb

        mode = "offline" if self._offline else os.environ.get("WANDB_MODE", "online")
        try:
            run = self._init(mode)
        except Exception as error:
            warn("no W&B run could begin (%s), so this one is logged offline.", _first_line(error))
            try:
                wandb.teardown()  # subtle: W&B's service keeps the id of the run that failed
                self._offline = True
                run = self._init("offline")
            except Exception as error:
                warn("W&B cannot write offline either (%s) and is left out.", _first_line(error))
                return DummyExperiment()
        if run.url:
            log.info("W&B run: %s", run.url)
        else:
            log.info("W&B is offline; upload the run later: %s", self._upload)
        return run

    def _init(self, mode: str) -> Any:
        import wandb

        os.environ["WANDB_SILENT"] = "true"  # also forbids W&B to ask for a key
        os.environ["WANDB_DATA_DIR"] = str(self._files / "artifacts")  # copies waiting for upload
        os.environ.setdefault("WANDB_CACHE_DIR", str(self._files / "cache"))
        self._files.mkdir(parents=True, exist_ok=True)
        self._wandb_init["id"] = self._id = self._kept_id()
        settings = wandb.Settings(
            **self._timeouts, finish_timeout_raises=True, reinit="finish_previous", silent=True
        )
        run = wandb.init(mode=mode, settings=settings, **self._wandb_init)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run

    def _kept_id(self) -> str:
        """The id of the earlier part of this run, or a new one, kept for the later parts."""
        path = Path(self._save_dir) / "wandb_id.txt"
        if self._id is None and path.is_file():
            return path.read_text().strip()
        chosen = self._id or secrets.token_hex(4)
        with written_whole(path) as unfinished:
            unfinished.write_text(chosen + "\n")
        return chosen

    @property
    def _files(self) -> Path:
        return Path(self._save_dir).absolute() / "wandb"

    @property
    def _upload(self) -> str:
        """What to type; W&B takes a run for uploaded if it began online, even if it was cut off."""
        return f"wandb sync {'' if self._offline else '--include-online '}{self._files}"

    def _complain_once(self, what: str, error: Exception) -> None:
        if what not in self._complaints:
            self._complaints.add(what)
            warn(
                "W&B failed in %s (%s); training goes on, and what is kept goes up with: %s",
                what,
                _first_line(error),
                self._upload,
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
