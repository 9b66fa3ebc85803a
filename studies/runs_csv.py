"""``runs.csv``: one row a run, one column a figure; read back exactly as it was written."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data.index import write_whole
from studies.collect import Run, Study
from studies.emergence import emergence

Cell = int | float | str | None
_FIGURES = ("points", "epe_px", "ad_px", "delta_avg", "hit", "zero_epe_px", "floor_px")
_TEXTS = {"size", "budget_unit", "path", "git_sha", "machine"}
_WHOLE = {"seed", "blocks", "embeddings", "head", "total", "tokens", "steps"}
_WHOLE |= {"points", "emergence_step", "emergence_tokens"}  # after <set>/


def rows_of(study: Study, share: float) -> list[dict[str, Cell]]:
    """The runs as rows; None stands for what a run does not have or did not reach."""
    return [_row(run, study.sets, share) for run in study.runs]


def write_rows(rows: Sequence[dict[str, Cell]], path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(
        {column: repr(cell) if isinstance(cell, float) else cell for column, cell in row.items()}
        for row in rows
    )
    write_whole(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, Cell]]:
    """The rows of such a file, numbers as numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {column: _cell(column, text) for column, text in row.items()}
            for row in csv.DictReader(file)
        ]


def _row(run: Run, sets: Sequence[str], share: float) -> dict[str, Cell]:
    card = run.card
    ((unit, amount),) = card.budget.items()
    row: dict[str, Cell] = {"size": card.size, "seed": card.seed, "budget_unit": unit}
    row |= {"budget": float(amount)} | asdict(card.parameters)
    row |= {name: getattr(card, name) for name in ("tokens", "flops", "steps", "seconds")}
    row["loss_nats"] = card.loss_nats
    for name in sets:
        known = asdict(card.sets[name]) if name in card.sets else {}
        low, high = known.pop("epe_ci95_px", (None, None))
        own = {key: known.get(key) for key in _FIGURES} | {"epe_low_px": low, "epe_high_px": high}
        seen = emergence(card.curve, name, share)
        own["emergence_step"] = None if seen is None else seen.step
        own["emergence_tokens"] = None if seen is None else seen.tokens
        row |= {f"{name}/{key}": value for key, value in own.items()}
    row |= {"git_sha": card.git_sha, "machine": card.machine, "path": run.path}
    return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()}


def _cell(column: str, text: str) -> Cell:
    if column in _TEXTS:
        return text
    if not text:
        return None
    return int(text) if column.rpartition("/")[2] in _WHOLE else float(text)
