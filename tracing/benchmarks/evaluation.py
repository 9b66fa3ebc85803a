"""What an evaluation is made of: who is in the table, what is written, which pictures are drawn.

``eval.py`` puts the pieces together; the tasks say which points are asked for.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.types import PointPairs
from tracing.baselines import DIS, BestTranslation, NearestPatchColor, ZeroMotion
from tracing.benchmarks.base import Row, Tracer, evaluate, print_table, save_points
from tracing.benchmarks.track_rows import TrackRow
from tracing.benchmarks.track_tables import print_track_table, print_videos, videos_table
from tracing.config import TracerConfig
from tracing.protocol import NextFrameModel
from tracing.report import write_report
from tracing.tracers import TracerSetup
from tracing.visualize import arrows_figure, epe_curve_figure, kl_map_figure, save_png

MODEL_TRACERS = ("kl", "rgb")
TRACERS = (*MODEL_TRACERS, "dis", "zero_motion")
TABLE_WIDTH = 110  # columns, where no terminal says
Pictures = dict[str, tuple[str, Figure]]  # file stem -> caption, figure


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
        """Scores pair by pair, as ``tracing.report`` describes them; empty if that says little."""
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


def scores_of(task: Task) -> Callable[..., Sequence[Row]]:
    """What turns tracers and parts of this task into rows."""
    return task.score if isinstance(task, OwnScores) else evaluate


def on_device(pairs: PointPairs, device: str) -> PointPairs:
    """The same queries there."""
    there = {
        name: value.to(device) for name, value in vars(pairs).items() if isinstance(value, Tensor)
    }
    return replace(pairs, **there)


def check_tracer(chosen: str, model: NextFrameModel | None) -> None:
    """Raise ValueError if there is no such tracer, or it needs a model and there is none."""
    if chosen not in TRACERS:
        raise ValueError(f"tracer {chosen!r} is not known; choose one of {', '.join(TRACERS)}.")
    if chosen in MODEL_TRACERS and model is None:
        raise ValueError(
            f"tracer={chosen} needs a model: pass ckpt=RUN (a run folder, an export or a .ckpt), "
            "or choose tracer=dis or tracer=zero_motion."
        )


def line_up(
    chosen: str,
    model: NextFrameModel | None,
    setup: TracerSetup,
    patch_px: int,
    task: Task,
    compare: bool = True,
) -> tuple[list[Tracer], str | None]:
    """The tracers of the table, the chosen one first, and the name all are paired with.

    The RGB tracer decodes whole frames, so with ``read_out="first"`` it is there only if chosen.
    """
    known: list[Tracer] = [] if model is None else [setup.kl(model)]
    if model is not None and (setup.cfg.read_out == "all" or chosen == "rgb"):
        known.append(setup.rgb(model))
    known += [ZeroMotion(), DIS(), DIS(enlarge=4), BestTranslation(), NearestPatchColor(patch_px)]
    known.sort(key=lambda tracer: tracer.name != chosen)
    taking_part: list[Tracer] = []
    for tracer in known if compare else known[:1]:
        own = task.adapt(tracer)
        taking_part += map(setup.judged, own) if tracer.name in MODEL_TRACERS else own
    kl = [tracer.name for tracer in taking_part if tracer.name.startswith("kl")]
    return taking_part, kl[0] if kl else None


def control_tracers(
    model: NextFrameModel, untrained: NextFrameModel, setup: TracerSetup, task: Task
) -> list[Tracer]:
    """KL tracers that must fail: no training, the tracer elsewhere, no tracer at all."""
    without = replace(setup, cfg=replace(setup.cfg, amplitude=0.0))
    controls = {
        "untrained": setup.kl(untrained),
        "random_point": setup.kl(model, control="random_point"),
        "zero_amplitude": without.kl(model),
    }
    adapted = []
    for name, tracer in controls.items():
        (own,) = task.adapt(tracer)
        own = setup.judged(own)
        own.name = name
        adapted.append(own)
    return adapted


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Hash of all weights of a model: two checkpoints are the same only if theirs are."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        as_bytes = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + as_bytes.numpy().tobytes())
    return digest.hexdigest()[:16]


def results_of(task: Task, rows: Sequence[Row], controls: Sequence[Row], floor: float) -> dict:
    """The results as in ``tracing.report``, still without protocol and provenance."""
    about = task.about()
    where = Path(about.get("root", about.get("path", task.name)))
    dataset = {
        "name": about.get("scene", {}).get("name") or where.name,
        "num_pairs": about.get("num_pairs") or sum(len(part.points) for part in task.parts),
        "num_points": len(rows[0].points),
    }
    known = ("resolution_hw", "input_hw", "num_videos", "num_unscorable", "part")
    dataset |= {key: about[key] for key in known if key in about}
    results = {
        "task": task.name,
        "dataset": dataset,
        "tracers": [row.as_dict() for row in rows],
        "controls": [row.as_dict() for row in controls],
        "floor": floor,
    }
    if isinstance(rows[0], TrackRow):
        results["videos"] = videos_table(rows)
    pairs = task.pairs_table(rows)
    return results | ({"pairs": pairs} if pairs else {})


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


def kl_pictures(tracer: Tracer, pairs: Iterable[PointPairs], seed: int, count: int) -> Pictures:
    """KL maps of the first scored query of each of the first ``count`` pairs.

    The tracer must be of one scale, and the frames of a size that the model takes.
    """
    pictures: Pictures = {}
    for part in pairs:
        for i in range(len(part.points)):
            scored = (part.visible[i] & part.valid[i]).nonzero()[:, 0]
            if len(pictures) == count or not len(scored):
                continue
            n = scored[:1]
            traces = tracer(
                part.frame0[i : i + 1], part.frame1[i : i + 1], part.points[i][None, n], seed
            )
            query, target, answer = part.points[i, n[0]], part.target[i, n[0]], traces.xy[0, 0]
            error = (answer - target).norm().item()
            moved = (target - query).norm().item()
            caption = (
                f"Query {len(pictures)}, px as shown: moved {moved:.1f}, traced {error:.1f} off."
            )
            figure = kl_map_figure(
                part.frame0[i], part.frame1[i], query, answer, traces.maps[0, 0], target
            )
            pictures[f"kl_map_{len(pictures)}"] = (caption, figure)
        if len(pictures) == count:
            break
    return pictures


def arrow_pictures(row: Row, parts: Iterable[PointPairs], count: int) -> Pictures:
    """True and predicted motion of the scored points, for the first ``count`` pairs with any."""
    pictures: Pictures = {}
    number = -1
    for part in parts:
        for frame0 in part.frame0:
            number += 1
            own = row.frame_pair == number
            if len(pictures) == count or not bool(own.any()):
                continue
            figure = arrows_figure(
                frame0, row.points[own], row.xy[own], row.target[own], f"{row.name}, pair {number}"
            )
            caption = f"Pair {number}: motion of {int(own.sum())} points, true and by {row.name}."
            pictures[f"arrows_{len(pictures)}"] = (caption, figure)
        if len(pictures) == count:
            break
    return pictures


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


def _pairs_table(pairs: list[dict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("EPE (px), pair by pair", no_wrap=True)
    for title in ("height x width", *pairs[0]["epe"]):
        table.add_column(title, justify="right")
    for pair in pairs:
        scores = ["-" if epe is None else f"{epe:.2f}" for epe in pair["epe"].values()]
        table.add_row(pair["name"], "{}x{}".format(*pair["resolution_hw"]), *scores)
    return table


def write_evaluation(
    out: Path,
    results: dict,
    rows: Sequence[Row],
    controls: Sequence[Row],
    pictures: Pictures,
    report: bool,
) -> list[Path]:
    """Write pictures, points, table, results.json and, if asked, report.html; returns the files."""
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for stem, (caption, figure) in pictures.items():
        save_png(figure, folder / f"{stem}.png")
        listed.append({"file": f"pictures/{stem}.png", "caption": caption})
    results = results | {"pictures": listed}
    if curve := results.get("curve"):  # the page draws its own, with the same numbers
        save_png(epe_curve_figure(curve, results["curve_lines"]), folder / "epe_curve.png")
    save_points([*rows, *controls], out / "points.npz")
    text = io.StringIO()
    show(results, rows, controls, Console(file=text, width=TABLE_WIDTH))
    _write_whole(out / "table.txt", text.getvalue())
    _write_whole(out / "results.json", json.dumps(results, indent=1) + "\n")
    written = [out / name for name in ("results.json", "table.txt", "points.npz", "pictures")]
    if report:
        write_report(results, out / "report.html")
        written.append(out / "report.html")
    return written


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
