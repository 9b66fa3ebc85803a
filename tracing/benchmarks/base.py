"""Run tracers over two-frame queries with ground truth and put their scores in one table.

Errors are kept per point, so any two rows can be compared on the same points. All intervals
resample whole frame pairs: the points of one pair fail together.
"""

import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.coords import rescale_points
from data.index import write_whole
from data.types import PointPairs
from lras.grid import PatchGrid
from tracing.benchmarks.flips import flip_shares, flips_line
from tracing.config import Placement, Traces
from tracing.metrics import functional
from tracing.metrics.bootstrap import bootstrap_mean, bootstrap_paired


@runtime_checkable
class Tracer(Protocol):
    """What KL tracing, RGB-difference tracing and every baseline look like from here."""

    name: str
    needs_model: bool

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces: ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tracer's scores over the scored points (visible and valid), and the points themselves.

    Everything is in pixels of the frames; only ``delta_avg`` has both axes stretched to 256x256.
    ``frame_pair`` numbers the frame pair each point came from.
    """

    name: str
    epe: float  # px of the frames
    epe_interval: tuple[float, float]
    median: float  # px of the frames
    delta_avg: float
    hit: float  # within patch_px
    ratio_to_zero: float  # EPE / EPE of zero motion on the same points
    target_revealed_share: float | None  # None: the tracer reveals nothing
    seconds: float  # wall time inside the tracer
    flips: dict[str, float] | None = None  # ``flip_shares`` of the valid points; None: no tracers
    kept_hidden_share: float | None = None  # mean over points, of patches that zooms never reveal
    paired_vs: dict | None = None
    points: Float[Tensor, "n 2"]
    xy: Float[Tensor, "n 2"]
    target: Float[Tensor, "n 2"]
    errors: Float64[Tensor, " n"]
    frame_pair: Int[Tensor, " n"]

    def as_dict(self) -> dict:
        """The row as ``tracing.results_schema`` has it: JSON-ready, without the points."""
        kept = ("name", "epe", "epe_interval", "median", "delta_avg", "hit", "ratio_to_zero")
        kept += ("target_revealed_share", "seconds", "flips", "kept_hidden_share", "paired_vs")
        return {key: getattr(self, key) for key in kept} | {"epe_interval": list(self.epe_interval)}


def evaluate(
    tracers: Sequence[Tracer],
    pairs: PointPairs | Iterable[PointPairs],
    seed: int,
    *,
    patch_px: int,
    paired_with: str | None = None,
) -> list[Row]:
    """One row for each tracer, in the order given, on exactly the same points.

    Part i of ``pairs`` is traced with ``seed + i``, so reveal masks differ between parts. Points
    whose target was revealed in every mask stay in and count as the errors they are.

    Args:
        patch_px: side of the square that ``hit`` asks for, and of the model's patches.
        paired_with: name of the tracer that every other row is compared with (``paired_vs``).

    Raises:
        ValueError: two tracers share a name, ``paired_with`` names none, or no point is scored.
    """
    names = [tracer.name for tracer in tracers]
    if len(set(names)) < len(names):
        raise ValueError(f"tracer names {names} repeat; give each tracer a name of its own.")
    if paired_with is not None and paired_with not in names:
        raise ValueError(f"paired_with={paired_with!r} is not among the tracers {names}; pick one.")
    collected = [_Answers() for _ in tracers]
    for part, queries in enumerate([pairs] if isinstance(pairs, PointPairs) else pairs):
        for tracer, answers in zip(tracers, collected, strict=True):
            answers.add(tracer, queries, seed + part, patch_px)
    rows = [_row(t.name, a, seed, patch_px) for t, a in zip(tracers, collected, strict=True)]
    if paired_with is None:
        return rows
    other = rows[names.index(paired_with)]
    return [
        row if row is other else replace(row, paired_vs=compare(row, other, seed)) for row in rows
    ]


def compare(row: Row, other: Row, seed: int) -> dict:
    """Paired difference of EPE on the same points, row - other in px: below 0 the row is better."""
    difference = bootstrap_paired(row.errors, other.errors, seed, row.frame_pair)
    return {
        "name": other.name,
        "difference": difference.mean,
        "interval": [difference.low, difference.high],
        "excludes_zero": difference.excludes_zero,
    }


def readout_floor(
    pairs: PointPairs | Iterable[PointPairs],
    patch_px: int,
    placement: Placement = "patch",
    map_px: int | None = None,
) -> float:
    """EPE of a perfect detector that can only name a cell of its map, in px of the frames.

    ``placement="patch"``: the tracer sits at the center c of the query's patch and moves by the
    query's true displacement d; the detector names the cell that holds c + d and answers
    query + (that cell's center - c). Zero for motion by whole patches.
    ``placement="query"``: it names the cell that holds the true target and answers its center.
    ``map_px`` is the side of the map's cells (None: ``patch_px``). An arg-max cannot beat this
    floor; a centroid over several cells can.
    """
    total, count = 0.0, 0
    for part in [pairs] if isinstance(pairs, PointPairs) else pairs:
        answer = perfect_answer(part, patch_px, placement, map_px or patch_px)
        errors = functional.distances(answer, part.target)[functional.scored_points(part)]
        total, count = total + errors.sum().item(), count + len(errors)
    return total / count if count else float("nan")


def print_table(
    rows: Sequence[Row], floor: float | None = None, console: Console | None = None
) -> None:
    """Print rows, floor and paired differences to the terminal or ``console``; fits 80 columns.

    ``shown`` is the share of targets revealed in every mask, ``/zero`` the ratio to zero motion.
    """
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("tracer (px)", no_wrap=True)
    for title in ("EPE", "95 %", "med.", "/zero", "delta", "hit", "shown", "s"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        revealed = row.target_revealed_share
        low, high = row.epe_interval
        table.add_row(
            row.name,
            f"{row.epe:.3f}",
            f"{low:.2f}-{high:.2f}",
            f"{row.median:.2f}",
            f"{row.ratio_to_zero:.3f}",
            f"{row.delta_avg:.3f}",
            f"{row.hit:.2f}",
            "-" if revealed is None else f"{revealed:.1%}",
            f"{row.seconds:.0f}" if row.seconds >= 10 else f"{row.seconds:.1f}",
        )
    console.print(table)
    if floor is not None:
        console.print(f"read-out floor: EPE {floor:.3f}")
    for row in rows:
        if row.paired_vs:
            low, high = row.paired_vs["interval"]
            difference = f"{row.paired_vs['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            console.print(f"{row.name} - {row.paired_vs['name']}: {difference}", markup=False)
    print_flips(rows, console)


def print_flips(rows: Sequence[Row], console: Console) -> None:
    """Print which tracers did not change a code at once, one line a row; often nothing."""
    for row in rows:
        if said := flips_line(row.name, row.flips):
            console.print(said, markup=False, highlight=False)


def save_points(rows: Sequence[Row], path: Path) -> None:
    """Write the scored points as .npz: ``points``, ``target``, ``frame_pair``, ``xy/<tracer>``."""
    if path.suffix != ".npz":
        raise ValueError(f"points are written as .npz, got {path.name!r}; end the name in .npz.")
    arrays = {key: getattr(rows[0], key).numpy() for key in ("points", "target", "frame_pair")}
    arrays |= {f"xy/{row.name}": row.xy.numpy() for row in rows}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())


class _Answers:
    """Answers of one tracer on the scored points, gathered over the parts of a data set."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, ...]] = []
        self.revealed: list[Tensor] = []
        self.flipped: list[Tensor] = []
        self.attempt: list[Tensor] = []
        self.kept_hidden: list[Tensor] = []
        self.seconds, self.num_pairs = 0.0, 0

    def add(self, tracer: Tracer, pairs: PointPairs, seed: int, patch_px: int) -> None:
        start = time.perf_counter()
        traces = tracer(pairs.frame0, pairs.frame1, pairs.points, seed=seed)
        xy = traces.xy.cpu()  # waits for the device, so the clock is right
        self.seconds += time.perf_counter() - start

        scored = functional.scored_points(pairs).cpu()
        points, target = pairs.points.cpu(), pairs.target.cpu()
        frame_hw = (pairs.frame0.shape[-2], pairs.frame0.shape[-1])
        to_256 = [rescale_points(p, frame_hw, functional.BENCHMARK_HW) for p in (xy, target)]
        number = torch.arange(len(points))[:, None].expand(scored.shape) + self.num_pairs
        self.num_pairs += len(points)
        self.parts.append(tuple(t[scored] for t in (points, xy, target, *to_256, number)))
        if traces.never_hidden is not None:
            seen_hw = getattr(tracer, "input_hw", frame_hw)  # a tracer may resize the frames
            inside = rescale_points(target, frame_hw, seen_hw)
            revealed = _target_revealed(traces.never_hidden.cpu(), inside, seen_hw, patch_px)
            self.revealed.append(revealed[scored])
        for kept, values in (
            (self.flipped, traces.flipped_codes),
            (self.attempt, traces.attempt),
            (self.kept_hidden, traces.kept_hidden_share),
        ):
            if values is not None:  # of every point that was asked for, in view or not
                kept.append(values.cpu()[pairs.valid.cpu()])

    def flips(self) -> dict[str, float] | None:
        if not self.flipped:
            return None
        attempt = torch.cat(self.attempt) if self.attempt else None
        return flip_shares(torch.cat(self.flipped), attempt)


def _row(name: str, answers: _Answers, seed: int, patch_px: int) -> Row:
    if not sum(len(part[0]) for part in answers.parts):
        raise ValueError(
            "no point is both visible and valid, so there is nothing to score; "
            "check the data set and how its points are picked."
        )
    points, xy, target, xy_256, target_256, frame_pair = map(
        torch.cat, zip(*answers.parts, strict=True)
    )
    errors = functional.distances(xy, target)
    every = torch.ones_like(errors, dtype=torch.bool)
    interval = bootstrap_mean(errors, seed, frame_pair)
    still = functional.distances(points, target).mean()
    return Row(
        name=name,
        epe=interval.mean,
        epe_interval=(interval.low, interval.high),
        median=errors.quantile(0.5).item(),
        delta_avg=functional.delta_avg(xy_256, target_256, every).item(),
        hit=functional.hit_share(xy, target, every, patch_px).item(),
        ratio_to_zero=(errors.mean() / still).item(),
        target_revealed_share=_mean(answers.revealed),
        seconds=answers.seconds,
        flips=answers.flips(),
        kept_hidden_share=_mean(answers.kept_hidden),
        points=points,
        xy=xy,
        target=target,
        errors=errors,
        frame_pair=frame_pair,
    )


def _mean(parts: Sequence[Tensor]) -> float | None:
    return torch.cat(list(parts)).double().mean().item() if parts else None


def _target_revealed(
    never_hidden: Bool[Tensor, "batch patches"],
    target: Float[Tensor, "batch points 2"],
    frame_hw: tuple[int, int],
    patch_px: int,
) -> Bool[Tensor, "batch points"]:
    grid = PatchGrid(*frame_hw, patch_px, patch_px)
    if never_hidden.shape[1] != grid.num_patches:
        raise ValueError(
            f"the tracer's model has {never_hidden.shape[1]} patches but patch_px={patch_px} makes "
            f"{grid.num_patches} of the frames; evaluate with the model's own patch_px."
        )
    return never_hidden.gather(1, grid.patch_index(target))


def perfect_answer(
    pairs: PointPairs, patch_px: int, placement: Placement, map_px: int
) -> Float[Tensor, "pairs points 2"]:
    """Where the perfect detector of ``readout_floor`` says the points are."""
    height, width = pairs.frame0.shape[-2:]
    grid = PatchGrid(height, width, patch_px, patch_px)
    cells = PatchGrid(height, width, map_px, map_px)
    cell_centers = cells.patch_centers().to(pairs.target)
    if placement == "query":
        return cell_centers[cells.patch_index(pairs.target)]
    source = grid.patch_centers().to(pairs.points)[grid.patch_index(pairs.points)]
    landed = source + (pairs.target - pairs.points)
    return pairs.points + cell_centers[cells.patch_index(landed)] - source
