"""What an evaluation is made of: how a task is asked, what is written, which pictures are drawn.

``eval.py`` puts the pieces together; the tasks say which points are asked for.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.index import write_whole
from data.types import PointPairs
from tracing.benchmarks.base import Row, Tracer, evaluate, print_table, save_points
from tracing.benchmarks.flow_tables import PAIRS_SHOWN, print_dense
from tracing.benchmarks.pictures import Pictures
from tracing.benchmarks.track_rows import TrackRow, finite
from tracing.benchmarks.track_tables import print_track_table, print_videos, videos_table
from tracing.config import TracerConfig
from tracing.report_markdown import write_markdown
from tracing.report_page import write_report
from tracing.results_schema import SCHEMA, check_results
from tracing.visualize import epe_curve_figure, save_png

TABLE_WIDTH = 110  # columns, where no terminal says


@runtime_checkable
class Task(Protocol):
    """Queries with ground truth, and what must be done to a tracer before it can answer them."""

    name: str
    parts: Sequence[PointPairs]  # read when asked for, so that files need not fit in memory

    def adapt(self, tracer: Tracer) -> list[Tracer]:
        """The tracer as it takes part: as it is, at other resolutions, or not at all."""
        ...

    def floor(self, patch_px: int, cfg: TracerConfig, map_px: int) -> float:
        """``readout_floor`` of these queries, in px of the frames."""
        ...

    def for_model(self) -> Iterable[PointPairs]:
        """The parts at the size a model is given."""
        ...

    def about(self) -> dict:
        """What the results' ``dataset`` and ``protocol`` say of the task."""
        ...

    def pairs_table(self, rows: Sequence[Row]) -> list[dict]:
        """Scores pair by pair, as the results have them; empty if that says little."""
        ...

    def pictures(self, rows: Sequence[Row]) -> Pictures:
        """Pictures of this task alone."""
        ...


@runtime_checkable
class OwnScores(Protocol):
    """A task that does not score pooled points; takes and gives what ``evaluate`` does."""

    def score(
        self,
        tracers: Sequence[Tracer],
        parts: Iterable[PointPairs],
        seed: int,
        *,
        patch_px: int,
        paired_with: str | None = None,
    ) -> list[TrackRow]:
        """One row for each tracer, in the order given."""
        ...


@runtime_checkable
class DenseScores(Protocol):
    """A task that also scores every pixel of some tracers."""

    def dense_pairs(self, rows: Sequence[Row]) -> list[dict]:
        """``dense_pairs`` of the results; empty where no tracer knows the flow of every pixel."""
        ...


@runtime_checkable
class PartlyGraded(Protocol):
    """A task that can be graded on some of its units only."""

    def only(self, units: Sequence[str]) -> Task:
        """The same task with these units (videos, frame pairs) only, their names as they were."""
        ...


def scores_of(task: Task) -> Callable[..., Sequence[Row]]:
    """What turns tracers and parts of this task into rows."""
    return task.score if isinstance(task, OwnScores) else evaluate


def on_device(pairs: PointPairs, device: str) -> PointPairs:
    """The same queries there."""
    there = {
        name: value.to(device) for name, value in vars(pairs).items() if isinstance(value, Tensor)
    }
    return replace(pairs, **there)


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Hash of all weights of a model: two checkpoints are the same only if theirs are."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        as_bytes = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + as_bytes.numpy().tobytes())
    return digest.hexdigest()[:16]


def results_of(
    task: Task,
    rows: Sequence[Row],
    controls: Sequence[Row],
    floor: float,
    about: dict | None = None,
) -> dict:
    """The results as in ``tracing.results_schema``, without protocol, stamp and provenance.

    ``about`` is the task's own, for those who have asked it already.
    """
    about = about or task.about()
    where = Path(about.get("root", about.get("path", task.name)))
    dataset = {
        "name": about.get("scene", {}).get("name") or about.get("dataset") or where.name,
        "num_pairs": about.get("num_pairs") or sum(len(part.points) for part in task.parts),
        "num_points": len(rows[0].points),
    }
    known = ("resolution_hw", "input_hw", "num_videos", "num_unscorable", "part")
    dataset |= {key: about[key] for key in known if key in about}
    if "query_mode" in about:
        dataset["query_mode"] = about["query_mode"].split(":")[0]
    results = {
        "schema": SCHEMA,
        "task": task.name,
        "dataset": dataset,
        "tracers": [row.as_dict() for row in rows],
        "controls": [row.as_dict() for row in controls],
        "floor": floor,
    }
    if isinstance(rows[0], TrackRow):
        results["videos"] = videos_table(rows)
    if pairs := task.pairs_table(rows):
        results["pairs"] = pairs
    if isinstance(task, DenseScores) and (dense := task.dense_pairs(rows)):
        results["dense_pairs"] = dense
    return results


def read_curve(run: str | Path | None) -> dict:
    """``curve`` and ``curve_lines`` of the results, from the probe of a run; else empty."""
    path = None if run is None else Path(run) / "probe.json"
    if path is None or not path.is_file():
        return {}
    history = json.loads(path.read_text())
    names = [key.split("/")[1] for key in (history or [{}])[0] if key.endswith("/epe")]
    if not names:
        return {}
    scores = [{"step": h["step"], "epe": h[f"flow/{names[0]}/epe"]} for h in history]
    first = history[0]
    lines = {"zero motion": "zero_epe", "DIS": "dis_epe", "read-out floor": "floor"}
    return {
        "curve": scores,
        "curve_lines": {
            name: first[f"flow/{names[0]}/{key}"]
            for name, key in lines.items()
            if f"flow/{names[0]}/{key}" in first
        },
    }


def show(results: dict, rows: Sequence[Row], controls: Sequence[Row], console: Console) -> None:
    """The tables of an evaluation, for the terminal or a text file."""
    print_rows = print_track_table if isinstance(rows[0], TrackRow) else print_table
    print_rows(rows, results["floor"], console)
    if controls:
        console.print("\ncontrols, which must fail")
        print_rows([replace(row, paired_vs=None) for row in controls], console=console)
    if given := results["dataset"].get("input_hw"):
        pixels = "at 256x256" if "videos" in results else "of the pairs as stored"
        console.print("\nEPE in px {}; the model was given {}x{} px".format(pixels, *given))
    if "videos" in results:
        print_videos(results, console)
    if pairs := results.get("pairs"):
        console.print(_pairs_table(pairs))
    if any(getattr(row, "dense", None) for row in rows):
        print_dense(rows, console)
    coverage = results.get("coverage", {"share": 1.0})
    if coverage["share"] < 1:
        said = "{units} of {of_units} units".format(**coverage)
        console.print(f"\nNOT COMPLETE: graded on {said} ({coverage['share']:.1%}).", markup=False)


def _pairs_table(pairs: list[dict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("EPE (px), pair by pair", no_wrap=True)
    for title in ("height x width", *pairs[0]["epe"]):
        table.add_column(title, justify="right")
    for pair in pairs[:PAIRS_SHOWN]:
        scores = ["-" if epe is None else f"{epe:.2f}" for epe in pair["epe"].values()]
        table.add_row(pair["name"], "{}x{}".format(*pair["resolution_hw"]), *scores)
    if len(pairs) > PAIRS_SHOWN:
        table.caption = f"the first {PAIRS_SHOWN} of {len(pairs)}; all are in results.json"
    return table


def write_evaluation(
    out: Path,
    results: dict,
    rows: Sequence[Row],
    controls: Sequence[Row],
    pictures: Pictures,
    report: bool,
) -> list[Path]:
    """Write pictures, points, tables, pages if asked, and last results.json; returns the files.

    Raises:
        ValueError: the results do not follow the schema; then only pictures and points are there.
    """
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for stem, (caption, figure) in pictures.items():
        save_png(figure, folder / f"{stem}.png")
        listed.append({"file": f"pictures/{stem}.png", "caption": caption})
    results = finite(results | {"pictures": listed})
    if curve := results.get("curve"):  # the page draws its own, with the same numbers
        save_png(epe_curve_figure(curve, results["curve_lines"]), folder / "epe_curve.png")
    save_points([*rows, *controls], out / "points.npz")
    check_results(results)
    text = io.StringIO()
    show(results, rows, controls, Console(file=text, width=TABLE_WIDTH))
    write_whole(out / "table.txt", text.getvalue().encode())
    written = [out / name for name in ("results.json", "table.txt", "points.npz", "pictures")]
    if report:
        write_report(results, out / "report.html")
        write_markdown(results, out / "report.md")
        written += [out / "report.html", out / "report.md"]
    write_whole(out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    return written
