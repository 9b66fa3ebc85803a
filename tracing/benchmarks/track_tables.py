"""The rows of TAP-Vid as tables, for the terminal and for results.json."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tracing.benchmarks.base import print_flips
from tracing.benchmarks.track_rows import TrackRow, finite
from tracing.metrics.functional import THRESHOLDS_PX
from tracing.metrics.tracks import COUNT

OF_A_VIDEO = ("epe", "ad", "median", "ad_median", "delta_avg", "oa", "of1", "aj")
OF_A_VIDEO += tuple(f"{kind}_{px:.0f}" for kind in ("delta", "jaccard") for px in THRESHOLDS_PX)
PRINTED = ("zero_motion", "dis", "kl", "rgb")  # video by video; results.json holds everybody


def videos_table(rows: Sequence[TrackRow]) -> list[dict]:
    """Scores video by video, as ``tracing.results_schema`` has them; null if there are none."""
    named = enumerate(rows[0].names)
    return [
        {
            "name": name,
            "num_points": int(rows[0].videos[index][COUNT]),
            "scores": {
                row.name: finite({key: _of_a_video(row.videos[index], key) for key in OF_A_VIDEO})
                for row in rows
            },
        }
        for index, name in named
    ]


def _of_a_video(scores: dict[str, float], key: str) -> float:
    return scores[key] if scores[COUNT] else float("nan")


def print_track_table(
    rows: Sequence[TrackRow], floor: float | None = None, console: Console | None = None
) -> None:
    """Print rows, floor and paired differences; ``shown`` and ``/zero`` as in ``print_table``."""
    console = console or Console()
    table = _table("tracer (px at 256x256)")
    interval = rows[0].epe_interval is not None
    for title in (
        "EPE",
        *(["95 %"] if interval else []),
        "/zero",
        "AD",
        "delta",
        "OA",
        "OF1",
        "AJ",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("shown", justify="right", no_wrap=True)
    for row in rows:
        revealed, scores = row.target_revealed_share, row.scores
        table.add_row(
            row.name,
            f"{row.epe:.2f}",
            *(["{:.2f}-{:.2f}".format(*row.epe_interval)] if interval else []),
            f"{row.ratio_to_zero:.3f}",
            f"{scores['ad']:.2f}",
            *(f"{scores[key]:.3f}" for key in ("delta_avg", "oa", "of1", "aj")),
            "-" if revealed is None else f"{revealed:.1%}",
        )
    console.print(table)
    if floor is not None:
        console.print(f"read-out floor: EPE {floor:.3f}")
    for row in rows:
        if row.paired_vs:
            said = f"{row.name} - {row.paired_vs['name']}: {row.paired_vs['difference']:+.3f}"
            if row.paired_vs["interval"]:
                said += " [{:+.3f}, {:+.3f}]".format(*row.paired_vs["interval"])
            console.print(said, markup=False)
    print_flips(rows, console)


def print_videos(results: dict, console: Console) -> None:
    """Print what the rows are means over, and the EPE of each video by the best known tracers."""
    dataset, videos = results["dataset"], results["videos"]
    by_rule: dict[str, list[str]] = {}
    for row in results["tracers"]:
        by_rule.setdefault(row["occlusion"]["rule"], []).append(row["name"])
    said = [
        f"Means over videos: {dataset['num_videos'] - dataset['num_unscorable']}, without "
        f"{dataset['num_unscorable']} that have nothing to score; {dataset['num_points']:,} "
        f"visible points in {dataset['num_pairs']:,} frame pairs.",
        *([f"AD: {ad}."] if (ad := results.get("protocol", {}).get("ad")) else []),
        *(f"{', '.join(names)}: {rule}." for rule, names in by_rule.items()),
    ]
    if not results["tracers"][0]["epe_interval"]:
        said.append("No intervals with so few videos.")
    if "part" in dataset:
        said.append(f"Not the whole file: {dataset['part']}.")
    console.print("\n" + " ".join(said), markup=False, highlight=False)
    shown = [name for name in videos[0]["scores"] if name.split("@")[0] in PRINTED]
    table = _table("EPE (px), video by video")
    for title in ("points", *shown):
        table.add_column(title, justify="right")
    for video in videos:
        epe = [video["scores"][name]["epe"] for name in shown]
        cells = ["-" if value is None else f"{value:.2f}" for value in epe]
        table.add_row(video["name"], str(video["num_points"]), *cells)
    console.print(table)


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column(first, no_wrap=True)
    return table
