"""The tables of an evaluation as plain text cells, for every kind of page and for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from tracing.benchmarks.published import PERCENT, comparison, published_for

_COLUMNS = ("tracer", "EPE (px)", "95 %", "/ zero", "median (px)", "hit", "delta_avg")
_COLUMNS += ("target revealed", "paired difference (px)", "seconds")
_OF_TRACKS = {"ad": "AD (px)", "oa": "OA", "aj": "AJ", "of1": "OF1"}  # further columns
_DENSE = {
    "epe": "EPE (px)",
    "px1": "< 1 px",
    "px3": "< 3 px",
    "px5": "< 5 px",
    "fl_all": "Fl-all (%)",
    "fl_all_pooled": "Fl-all pooled (%)",
    "wauc": "WAUC (%)",
    "s0_10": "s0-10 (px)",
    "s10_40": "s10-40 (px)",
    "s40": "s40+ (px)",
    "epe_visible": "visible (px)",
    "epe_occluded": "occluded (px)",
}
NONE = "–"


@dataclass(frozen=True)
class Sheet:
    """One table: a title, what must be said of it, column titles and lines of cells.

    ``marked`` lines stand apart from the others: floors, and our own among published ones.
    """

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    said: str = ""
    marked: frozenset[int] = frozenset()

    def for_terminal(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=self.title)
        for number, title in enumerate(self.head):
            table.add_column(title, justify="right" if number else "left")
        for line in self.lines:
            table.add_row(*line)
        return table


def rows_sheet(title: str, rows: Sequence[Mapping], floor: float | None = None) -> Sheet:
    """Scores of tracers on points, a line each, and the read-out floor."""
    further = [key for key in _OF_TRACKS if rows and key in rows[0]]
    head = (*_COLUMNS, *(_OF_TRACKS[key] for key in further))
    lines = [_row_cells(row, further) for row in rows]
    if floor is None:
        return Sheet(title, head, tuple(lines))
    lines.append(("read-out floor", f"{floor:.3f}", *[""] * (len(head) - 2)))
    return Sheet(title, head, tuple(lines), marked=frozenset([len(lines) - 1]))


def dense_sheet(rows: Sequence[Mapping]) -> Sheet | None:
    """Scores of every pixel, of the tracers that know it; None: nobody does."""
    known = [row for row in rows if row.get("dense")]
    if not known:
        return None
    shown = [key for key in _DENSE if any(row["dense"][key] is not None for row in known)]
    lines = [(row["name"], *(number(row["dense"][key], ".3f") for key in shown)) for row in known]
    pairs, pixels = known[0]["dense"]["pairs"], known[0]["dense"]["pixels"]
    said = f"Every pixel with known flow: {pixels:,} in {pairs:,} pairs, each pair by itself and "
    said += "then the mean over pairs; pooled: over all pixels at once."
    head = ("tracer", *(_DENSE[key] for key in shown))
    return Sheet("Dense flow", head, tuple(lines), said)


def pairs_sheet(pairs: Sequence[Mapping]) -> Sheet:
    """EPE of each tracer, pair by pair."""
    names = list(pairs[0]["epe"])
    lines = [
        (
            pair["name"],
            _size(pair),
            f"{pair['num_points']:,}",
            *(number(pair["epe"][name], ".2f") for name in names),
        )
        for pair in pairs
    ]
    head = ("pair", "height x width", "points", *names)
    return Sheet("EPE (px) pair by pair", head, tuple(lines))


def dense_pairs_sheet(pairs: Sequence[Mapping]) -> Sheet:
    """EPE, Fl-all and WAUC of every pixel, pair by pair."""
    names = list(pairs[0]["scores"])
    shown = {"epe": "EPE", "fl_all": "Fl-all", "wauc": "WAUC"}
    lines = [
        (
            pair["name"],
            _size(pair),
            *(number(pair["scores"][name].get(key), ".2f") for name in names for key in shown),
        )
        for pair in pairs
    ]
    head = ("pair", "height x width", *(f"{name} {t}" for name in names for t in shown.values()))
    return Sheet("Dense flow pair by pair", head, tuple(lines))


def videos_sheet(videos: Sequence[Mapping]) -> Sheet:
    """EPE and AJ of every tracer, video by video."""
    names = list(videos[0]["scores"])
    lines = [
        (
            video["name"],
            f"{video['num_points']:,}",
            *(
                number(video["scores"][name][key], form)
                for name in names
                for key, form in (("epe", ".2f"), ("aj", ".3f"))
            ),
        )
        for video in videos
    ]
    head = ("video", "points", *(f"{name} {score}" for name in names for score in ("EPE", "AJ")))
    return Sheet("Video by video", head, tuple(lines))


def published_sheet(results: Mapping) -> Sheet | None:
    """Published figures of the same data set beside ours; None where none are known."""
    published = published_for(results["dataset"])
    if not published:
        return None
    scores = published[0].columns
    ours = [
        (row["name"], *_percents(row, scores), "two", _input(row["name"], results), "this run", "")
        for row in results["tracers"]
    ]
    theirs = [
        (
            one.method,
            *(number(one.scores.get(key), ".2f") for key in scores),
            one.frames,
            one.resolution,
            one.source,
            comparison(one, results),
        )
        for one in published
    ]
    head = ("method", *scores.values(), "frames used", "input resolution", "source", "comparable")
    lines = tuple(tuple(line) for line in (*ours, *theirs))
    said = "Figures as their sources print them; ours in the same units."
    marked = frozenset(range(len(ours)))
    return Sheet("Beside published figures", head, lines, said, marked)


def sheets_of(results: Mapping) -> list[Sheet]:
    """Every table of an evaluation but that of the controls, in the order of a page."""
    sheets = [rows_sheet("Tracers", results["tracers"], results["floor"])]
    sheets += [dense_sheet(results["tracers"]), published_sheet(results)]
    makers = {"pairs": pairs_sheet, "dense_pairs": dense_pairs_sheet, "videos": videos_sheet}
    sheets += [make(results[key]) for key, make in makers.items() if results.get(key)]
    return [sheet for sheet in sheets if sheet is not None]


def number(value: float | None, form: str) -> str:
    """A score as text; a dash where it does not exist."""
    return NONE if value is None else format(value, form)


def _row_cells(row: Mapping, further: Sequence[str]) -> tuple[str, ...]:
    paired = row.get("paired_vs")
    difference = NONE
    if paired:
        difference = number(paired["difference"], "+.3f")
        if paired["interval"]:
            difference += " [{:+.3f}, {:+.3f}]".format(*paired["interval"])
        difference += f" vs {paired['name']}"
    return (
        row["name"],
        number(row["epe"], ".3f"),
        "{:.2f} – {:.2f}".format(*row["epe_interval"]) if row["epe_interval"] else NONE,
        number(row["ratio_to_zero"], ".3f"),
        number(row["median"], ".3f"),
        number(row["hit"], ".3f"),
        number(row["delta_avg"], ".3f"),
        number(row.get("target_revealed_share"), ".1%"),
        difference,
        f"{row['seconds']:.1f}",
        *(_with_interval(row, key) for key in further),
    )


def _with_interval(row: Mapping, key: str) -> str:
    spread = (row.get("intervals") or {}).get(key)
    between = " [{:.3f}, {:.3f}]".format(*spread) if spread else ""
    return number(row.get(key), ".3f") + between


def _percents(row: Mapping, scores: Mapping[str, str]) -> list[str]:
    values = {**row, **{f"dense_{k}": v for k, v in (row.get("dense") or {}).items()}}
    cells = []
    for key in scores:
        value = values.get(key)
        if value is not None and key in PERCENT:
            value = 100 * value
        cells.append(number(value, ".2f"))
    return cells


def _size(pair: Mapping) -> str:
    return "{}x{}".format(*pair["resolution_hw"]) if pair["resolution_hw"] else NONE


def _input(name: str, results: Mapping) -> str:
    """What this row's tracer was shown: its name says so where tracers differ in that."""
    _, at, size = name.partition("@")
    if at:
        return "as stored" if size == "native" else f"model {size}"
    given = results["dataset"].get("input_hw")
    return "model {}x{}".format(*given) if given else "as stored"
