"""The scores of every pixel as tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tracing.benchmarks.base import Row

PAIRS_SHOWN = 30  # of the first row; results.json holds all of all rows
MEANS = ("epe", "px1", "px3", "px5", "fl_all", "wauc")
OF_A_PAIR = ("epe", "px1", "fl_all", "wauc")
SPLITS = ("s0_10", "s10_40", "s40", "epe_visible", "epe_occluded")
TITLES = {
    "epe": "EPE",
    "px1": "<1px",
    "px3": "<3px",
    "px5": "<5px",
    "fl_all": "Fl-all %",
    "wauc": "WAUC %",
    "s0_10": "s0-10",
    "s10_40": "s10-40",
    "s40": "s40+",
    "epe_visible": "vis.",
    "epe_occluded": "occ.",
}


def print_dense(rows: Sequence[Row], console: Console) -> None:
    """Print the scores of all pixels: means over pairs, pooled over pixels, and pair by pair.

    Rows that do not know every pixel are left out; pair by pair goes the first that does. ``s``
    and vis./occ. are EPE by true speed and by whether a pixel is in view in frame 1.
    """
    known = [row for row in rows if getattr(row, "dense", None)]
    if not known:
        return
    scores = {row.name: row.dense for row in known}
    first = known[0].dense
    said = "every valid pixel of {pairs} pairs, {pixels:,} pixels; errors in px as stored"
    console.print("\n" + said.format(**first), markup=False, highlight=False)
    console.print(_table("mean over pairs", scores, (*MEANS, *SPLITS)))
    pooled = {
        name: {key.removesuffix("_pooled"): value for key, value in own.items() if "_pooled" in key}
        for name, own in scores.items()
    }
    columns = tuple(key for key in (*MEANS, *SPLITS) if key != "wauc")
    console.print(_table("pooled over pixels", pooled, columns))
    pairs = known[0].by_pair
    each = {pair.name: pair.scores() for pair in pairs[:PAIRS_SHOWN]}
    console.print(_table(f"{known[0].name}, pair by pair", each, (*OF_A_PAIR, *SPLITS)))
    if len(pairs) > PAIRS_SHOWN:
        console.print(f"the first {PAIRS_SHOWN} of {len(pairs)} pairs; all are in results.json")


def _table(first: str, scores: Mapping[str, Mapping], columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column(first, no_wrap=True)
    shown = [key for key in columns if any(own[key] is not None for own in scores.values())]
    for key in shown:
        table.add_column(TITLES[key], justify="right", no_wrap=True)
    for name, own in scores.items():
        table.add_row(name, *(_cell(key, own[key]) for key in shown))
    return table


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if key in ("epe", "px1", "px3", "px5") else f"{value:.2f}"
