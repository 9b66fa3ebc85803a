"""A CSV of metrics that can be read while it grows, and that a resumed run goes on with."""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class MetricsCsv:
    """One row per call of ``add``, on disk at once. ``step`` is the first column.

    A file that is already there belongs to an earlier part of this run, and the first step added
    says where this part begins: rows of later steps go, because those steps are about to be logged
    again. Of the row of the very same step only what is logged again goes: a probe logs at the step
    of a checkpoint, before the checkpoint is written, and is not asked again after a resume.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self.last_inherited_step: int | None = None  # None until the first row is added

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add a row; missing cells are empty, new columns go to the right.

        Raises:
            ValueError: the file of the earlier part has no column ``step``.
        """
        row = {"step": step} | {key: _plain(value) for key, value in metrics.items()}
        if self.last_inherited_step is None:
            inherited = [old for old in self._read() if int(old["step"]) <= step]
            self.last_inherited_step = max((int(old["step"]) for old in inherited), default=-1)
            self._rewrite([*_without(inherited, row), row])
        elif step <= self.last_inherited_step:
            self._rewrite([*_without(self._read(), row), row])
        elif row.keys() <= set(self.columns):
            columns, self.columns = (
                self.columns,
                [],
            )  # a line that is cut off: begin with whole ones
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerow(row)
            self.columns = columns
        else:
            self._rewrite([*self._read(), row])

    def _read(self) -> list[dict[str, Any]]:
        """All whole rows; a last line without its end was cut off when an earlier part died."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(line for line in file if line.endswith("\n"))
            if "step" not in (reader.fieldnames or ["step"]):
                raise ValueError(
                    f"{self.path} has the columns {', '.join(reader.fieldnames)} and no step, so "
                    f"this run cannot go on with it; move it away, or choose another hydra.run.dir."
                )
            return list(reader)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(["step", *(column for row in rows for column in row)]))
        with written_whole(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self.columns = columns


def _without(rows: list[dict[str, Any]], again: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``rows``, less the cells that ``again`` holds for the same step; emptied rows vanish."""
    for row in rows:
        if int(row["step"]) == again["step"]:
            row = {key: value for key, value in row.items() if key == "step" or key not in again}
        if any(value for key, value in row.items() if key != "step"):
            yield row


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` at the end: nobody sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    yield unfinished
    unfinished.replace(path)
