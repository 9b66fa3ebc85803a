"""The TensorBoard logger: event files in the run's folder, for ``tensorboard --logdir runs``."""

import importlib.util
import json
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoardRun(TensorBoardLogger):
    """Lightning's logger, with pictures, tables and a summary, in the run's folder.

    A resumed run goes on in the same folder; TensorBoard then hides what the earlier part logged
    after the step it is resumed from.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self, save_dir: str | Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "logger=tensorboard needs the package tensorboard, which is not installed; "
                "type pip install tensorboard, or leave the logger out."
            )
        folder = Path(save_dir) / "tensorboard"
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self._step: int | None = None  # the last one logged; None before the first

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if self._step is None and step > 0:
            self._hide_later_than(step)
        self._step = step
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_image(
        self,
        key: str,
        images: list[UInt8[np.ndarray, "height width 3"]],
        step: int,
        caption: list[str] | None = None,
    ) -> None:
        """One slider per picture, tagged ``KEY/0``, ``KEY/1``, ...; captions as text."""
        for index, image in enumerate(images):
            self.experiment.add_image(f"{key}/{index}", image, step, dataformats="HWC")
        if caption:
            lines = [f"{index}. {words}" for index, words in enumerate(caption)]
            self.experiment.add_text(f"{key}/captions", "\n".join(lines), step)

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list], step: int) -> None:
        self.experiment.add_text(key, _markdown(columns, data), step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if params == self.hparams:
            return
        super().log_hyperparams(params, *args, **kwargs)
        config = json.dumps(self.hparams, indent=1, default=str)
        self.experiment.add_text("config", f"```json\n{config}\n```")

    @rank_zero_only
    def log_summary(self, values: dict[str, Any]) -> None:
        """All values as a text, and the numbers beside the config in the tab HPARAMS."""
        step = self._step or 0
        rows = [[key, value] for key, value in values.items()]
        self.experiment.add_text("summary", _markdown(["figure", "value"], rows), step)
        numbers = {key: value for key, value in values.items() if isinstance(value, Real)}
        super().log_hyperparams(self.hparams, numbers, step)

    @rank_zero_only
    def close(self) -> None:
        self.finalize("success")

    def _hide_later_than(self, step: int) -> None:
        """Reopen the file with a mark; only the first step logged says where a run goes on."""
        self.experiment.close()
        self._experiment, self._kwargs = None, self._kwargs | {"purge_step": step + 1}


def _markdown(columns: list[str], data: list[list]) -> str:
    rows = [columns, ["---"] * len(columns), *data]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
