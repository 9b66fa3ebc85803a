"""An evaluation's tables and pictures in Weights & Biases, from the folder that it has written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from doors.loggers.wandb_run import wandb_run
from tracing.report_tables import rows_sheet, sheets_of

STEP = 0  # an evaluation has one


def log_evaluation(folder: Path, project: str, offline: bool) -> None:
    """Log results.json and the pictures of a run folder; W&B being down costs a warning only."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    run = wandb_run(save_dir=folder, project=project, offline=offline, job_type="evaluation")
    known = {key: results[key] for key in ("task", "protocol", "dataset", "stamp", "coverage")}
    run.log_hyperparams(known | {"provenance": results["provenance"]})
    if not hasattr(run, "log_table"):
        return  # wandb is not installed, which has been said
    sheets = sheets_of(results)
    if results["controls"]:
        sheets.append(rows_sheet("Controls", results["controls"]))
    for sheet in sheets:
        columns = [column or "note" for column in sheet.head]
        lines = [list(line) for line in sheet.lines]
        run.log_table(f"tables/{sheet.title}", columns=columns, data=lines, step=STEP)
    for picture in results.get("pictures", []):
        name = Path(picture["file"]).stem
        with Image.open(folder / picture["file"]) as image:
            pixels = np.asarray(image.convert("RGB"))
        run.log_image(f"pictures/{name}", [pixels], step=STEP, caption=[picture["caption"]])
    run.log_summary(_figures(results))
    run.close()


def _figures(results: dict[str, Any]) -> dict[str, float]:
    """Every score of every row, by tracer."""
    figures = {}
    for row in [*results["tracers"], *results["controls"]]:
        scores = row | {f"dense/{k}": v for k, v in (row.get("dense") or {}).items()}
        for key, value in scores.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                figures[f"{row['name']}/{key}"] = float(value)
    return figures
