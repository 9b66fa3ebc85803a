"""Several evaluations in one table: only where they asked the same, or where that is forced."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracing.metrics.bootstrap import bootstrap_mean, bootstrap_paired
from tracing.report_tables import NONE, Sheet, dense_sheet, number, published_sheet, rows_sheet
from tracing.results_schema import read_results

# What rows of one table must have in common, as dotted paths in the results.
SAME = (
    "task",
    "dataset.name",
    "stamp.protocol_id",
    "dataset.num_pairs",
    "dataset.num_points",
    "dataset.num_videos",
    "dataset.part",
    "coverage.share",
    "stamp.data",
    "stamp.metrics_sha256",
    "stamp.seed",
    "protocol.min_motion_px",
    "protocol.points_per_pair",
    "protocol.scene",
    "protocol.query_mode",
    "protocol.settings",
    "protocol.subset_fingerprint",
)
MIN_VIDEOS = 10  # an interval over fewer would say more than they know


def merged(runs: Sequence[Path], force: bool = False) -> tuple[str, list[Sheet]]:
    """The title and tables of several runs together, rows named by their tracer.

    A row that an earlier run has too, with the same figures, stands there once; with other figures
    its name tells the run.

    Raises:
        ValueError: a folder holds no results, or runs differ in what they asked and not ``force``.
    """
    every = [read_results(run) for run in runs]
    differs = [
        f"{key} is {_at(other, key)!r:.80} in {run} and {_at(every[0], key)!r:.80} in {runs[0]}"
        for run, other in zip(runs[1:], every[1:], strict=True)
        for key in SAME
        if _at(other, key) != _at(every[0], key)
    ]
    if differs and not force:
        raise ValueError(
            f"these runs cannot stand in one table: {differs[0]}; leave one out or add --force."
        )
    rows, owner = _together(runs, every)
    first = every[0]
    sheets = [rows_sheet("Tracers", rows, None if differs else first["floor"])]
    if (dense := dense_sheet(rows)) is not None:
        sheets.append(dense)
    if not differs:
        sheets += _paired(runs, every, rows, owner)
        if (known := published_sheet({**first, "tracers": rows})) is not None:
            sheets.append(known)
    if differs:
        said = "NOT COMPARABLE: " + "; ".join(differs) + "."
        sheets[0] = Sheet(sheets[0].title, sheets[0].head, sheets[0].lines, said)
    title = f"{len(runs)} evaluations: {first['task']}, {first['dataset']['name']}"
    return title, sheets


def _at(results: Mapping, path: str) -> Any:
    value: Any = results
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _together(
    runs: Sequence[Path], every: Sequence[Mapping]
) -> tuple[list[dict], dict[str, tuple[int, str]]]:
    """Rows of all runs without repetition, and by their new name the run and the old name."""
    rows: list[dict] = []
    owner: dict[str, tuple[int, str]] = {}
    for index, (run, results) in enumerate(zip(runs, every, strict=True)):
        for row in results["tracers"]:
            same = [r for r in rows if r["name"] == row["name"]]
            if same and _figures(same[0]) == _figures(row):
                continue
            name = f"{row['name']} ({run})" if same else row["name"]
            owner[name] = (index, row["name"])
            rows.append({**row, "name": name, "paired_vs": None})
    return rows, owner


def _figures(row: Mapping) -> dict:
    return {k: v for k, v in row.items() if k not in ("name", "seconds", "paired_vs")}


def _paired(
    runs: Sequence[Path],
    every: Sequence[Mapping],
    rows: Sequence[Mapping],
    owner: Mapping[str, tuple[int, str]],
) -> list[Sheet]:
    """EPE of each row minus that of the first, on the same points or videos; often nothing."""
    name0 = rows[0]["name"]
    if all("videos" in results for results in every):
        differences = {
            row["name"]: _by_video(every, owner[name0], owner[row["name"]]) for row in rows[1:]
        }
        unit = "videos"
    else:
        points = [_points(run) for run in runs]
        if any(one is None or not _same_points(one, points[0]) for one in points):
            return []
        differences = {
            row["name"]: _by_point(points, owner[name0], owner[row["name"]]) for row in rows[1:]
        }
        unit = "frame pairs"
    lines = [
        (
            name,
            number(mean, "+.3f"),
            NONE if interval is None else "[{:+.3f}, {:+.3f}]".format(*interval),
        )
        for name, (mean, interval) in differences.items()
    ]
    head = ("tracer", f"EPE minus that of {name0} (px)", "95 %")
    said = f"On the same points; intervals by bootstrap over {unit}. Below 0: better."
    return [Sheet("Paired differences", head, tuple(lines), said)]


Difference = tuple[float | None, tuple[float, float] | None]


def _by_video(
    every: Sequence[Mapping], first: tuple[int, str], other: tuple[int, str]
) -> Difference:
    scores = [
        {video["name"]: video["scores"].get(name, {}).get("epe") for video in every[i]["videos"]}
        for i, name in (first, other)
    ]
    pairs = [(scores[0][v], scores[1].get(v)) for v in scores[0]]
    gaps = [b - a for a, b in pairs if a is not None and b is not None]
    if not gaps:
        return None, None
    spread = bootstrap_mean(torch.tensor(gaps, dtype=torch.float64), 0)
    return spread.mean, (spread.low, spread.high) if len(gaps) >= MIN_VIDEOS else None


def _by_point(
    points: Sequence[Mapping], first: tuple[int, str], other: tuple[int, str]
) -> Difference:
    errors = []
    for index, name in (first, other):
        gap = points[index][f"xy/{name}"].astype(np.float64) - points[index]["target"]
        errors.append(torch.from_numpy(np.sqrt((gap**2).sum(-1))))
    pair = torch.from_numpy(points[first[0]]["frame_pair"])
    spread = bootstrap_paired(errors[1], errors[0], 0, pair)
    if not math.isfinite(spread.low):
        return spread.mean, None
    return spread.mean, (spread.low, spread.high)


def _points(run: Path) -> dict[str, np.ndarray] | None:
    path = (run if run.is_dir() else run.parent) / "points.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _same_points(one: Mapping, other: Mapping) -> bool:
    return all(np.array_equal(one[key], other[key]) for key in ("points", "target", "frame_pair"))
