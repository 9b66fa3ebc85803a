"""The logger that is always on: everything as plain files in the run's folder."""

import csv
import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from doors.loggers.metrics_csv import MetricsCsv, written_whole

log = logging.getLogger(__name__)


def survives(method: Callable) -> Callable:
    """The method on rank 0 only; a full disk costs one warning, and training goes on."""

    @functools.wraps(method)
    def guarded(self: "RunFolder", *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
            self.has_complained = False
        except OSError as error:
            if not self.has_complained:
                log.warning(
                    "%s cannot be written to (%s); training goes on, and figures and pictures are "
                    "lost until there is room on the disk.",
                    self.folder,
                    error.strerror or error,
                )
            self.has_complained = True

    return rank_zero_only(guarded)


class RunFolder(Logger):
    """Files a person, a spreadsheet and ``json.load`` can read, with or without a display.

    ``metrics.csv``                         one row per logged step; a resumed run goes on with it
    ``pictures/KEY/step_0000250_0.png``     the caption is in the PNG's text, as ``caption``
    ``tables/KEY.csv``                      as last logged
    ``summary.json``                        ``config``, and beside it the final figures
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.folder = Path(save_dir)
        self.metrics = MetricsCsv(self.folder / "metrics.csv")
        self.summary: dict[str, Any] = {}
        self.has_complained = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> None:
        return None  # the folder is the version

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    def log_dir(self) -> str:
        return str(self.folder)

    @survives
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics.add(metrics, step)

    @survives
    def log_image(
        self,
        key: str,
        images: list[UInt8[np.ndarray, "height width 3"]],
        step: int,
        caption: list[str] | None = None,
    ) -> None:
        for index, image in enumerate(images):
            about = PngInfo()
            about.add_itxt("caption", caption[index] if caption else "")
            path = self.folder / "pictures" / key / f"step_{step:07d}_{index}.png"
            with written_whole(path) as unfinished:
                Image.fromarray(image).save(unfinished, format="png", pnginfo=about)

    @survives
    def log_table(self, key: str, columns: list[str], data: list[list], step: int) -> None:
        """Replace the table; one that grows is handed over whole each time."""
        path = self.folder / "tables" / f"{key}.csv"
        with written_whole(path) as unfinished, unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *data])

    @survives
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.log_summary({"config": params})

    @survives
    def log_summary(self, values: dict[str, Any]) -> None:
        self.summary |= values
        with written_whole(self.folder / "summary.json") as unfinished:
            unfinished.write_text(json.dumps(self.summary, indent=1, default=str) + "\n")
