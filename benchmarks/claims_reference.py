"""The promises of the reference models and of the study of flow quality against model size.

What a model reaches is told, not promised: these lines promise that it was measured, beside what,
with which intervals, and that the controls fail. Names that ``figures`` carries, by result file.

reference_NAME.json (lras_nano, lras_micro)
    model     name, fingerprint of the weights, and how they were trained
    sets      {easy, hard, flow_gt, tracks_short, tracks_long, and *_zoom (three scales)}: each
        points, masks, scales, protocol, command, tracing_minutes
        floor_px   EPE of a perfect arg-max, over the same points
        tracers, controls   {name: {epe_px, epe_ci95_px, minus_kl_px, minus_kl_ci95_px, ...}}; a
            name ends in the size that a tracer was shown (``@64x64``, ``@native``) where frames
            are larger than a model takes. EPE is in px of the frames as stored, of tracks at 256.
"""

import math
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.claim import Claim, Figure, NotMeasuredError
from benchmarks.claims_main import Read, from_file
from benchmarks.claims_official import on_the_spot
from benchmarks.claims_probe import failing_tests
from benchmarks.result_file import ROOT
from doors.reference import BEST
from studies.collect import short
from studies.laws import Law, Refused, fit_law
from studies.ranks import RankCorrelation, rank_correlation
from studies.runs_csv import Cell, read_rows
from studies.texts import interval
from tests.offline_door import first_look, written

NANO, MICRO = f"reference_{BEST}.json", "reference_lras_micro.json"
STUDY = ROOT / "docs" / "scaling" / "runs.csv"
# Known laws: in arrays, and in run folders that go through scaling.py.
LAWS = tuple(ROOT / "tests" / f"test_studies_{name}.py" for name in ("laws", "recovered"))
COMMANDS = {
    NANO: f"python benchmarks/measure_reference.py {BEST}",
    MICRO: "python benchmarks/measure_reference.py lras_micro",
}
BESIDE = {  # what must stand in the table of each set, on frames as stored
    "scenes": ("kl", "rgb", "zero_motion", "dis", "dis_x4", "farneback"),
    "real": ("kl", "rgb", "zero_motion", "dis@native", "farneback@native"),
}
SETS = {
    "easy": "scenes",
    "hard": "scenes",
    "flow_gt": "real",
    "tracks_short": "real",
    "tracks_long": "real",
}
CONTROLS = ("untrained", "random_point", "zero_amplitude")
STUDY_SEED, DRAWS = 0, 500  # as configs/scaling.yaml: these figures are those of the page
UNTOLD = {True: "", False: " (cannot be told from none)"}


# --- the model ---------------------------------------------------------------------------------


def row_of(rows: dict, name: str) -> dict:
    """The row of a tracer, whatever size a model was shown."""
    sized = [key for key in rows if key.partition("@")[0] == name]
    return rows[name if name in rows or not sized else sized[0]]


def with_interval(part: str) -> Read:
    """How many of those that must be in the table have a finite EPE and interval."""

    def read(figures: dict) -> Figure:
        rows, found = figures["sets"][part]["tracers"], []
        for name in BESIDE[SETS[part]]:
            row = row_of(rows, name)
            low, high = row["epe_ci95_px"] or (math.nan, math.nan)
            if all(map(math.isfinite, (row["epe_px"], low, high))):
                found.append(f"{name} {row['epe_px']:.2f} [{low:.2f}, {high:.2f}]")
        floor = figures["sets"][part]["floor_px"]
        return Figure(len(found), f"px: {', '.join(found)}; floor {floor:.2f}")

    return read


def beside_zero(part: str) -> Read:
    """KL-tracing / zero motion, with the interval of the difference."""

    def read(figures: dict) -> Figure:
        own = figures["sets"][part]
        kl, zero = (row_of(own["tracers"], name) for name in ("kl", "zero_motion"))
        low, high = zero["minus_kl_ci95_px"]
        note = f"{kl['epe_px']:.2f} of {zero['epe_px']:.2f} px, {own['points']} points; "
        note += f"zero motion - KL [{low:+.2f}, {high:+.2f}]"
        return Figure(kl["epe_px"] / zero["epe_px"], note)

    return read


def best_control(part: str) -> Read:
    """The smallest EPE of a control / zero motion's: far below 1, the answer would have leaked."""

    def read(figures: dict) -> Figure:
        own = figures["sets"][part]
        zero = row_of(own["tracers"], "zero_motion")["epe_px"]
        ratios = {name: own["controls"][name]["epe_px"] / zero for name in CONTROLS}
        note = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        known = all(map(math.isfinite, ratios.values()))
        return Figure(min(ratios.values()) if known else math.nan, note)

    return read


def model_claims(result: str, scope: str) -> list[Claim]:
    claims = []
    for part, kind in SETS.items():
        claim = partial(from_file, result, f"{scope}, {part}")
        claims += [
            claim("tracers with interval", with_interval(part), "==", len(BESIDE[kind])),
            claim("best control / zero motion", best_control(part), ">=", 0.9),
        ]
    scenes = [part for part, kind in SETS.items() if kind == "scenes"]
    for part in scenes:
        claim = partial(from_file, result, f"{scope}, {part}")
        claims.append(claim("EPE(KL) / EPE(zero motion)", beside_zero(part), "<", 1))
    return claims


# --- python eval.py ----------------------------------------------------------------------------


@cache
def fresh_clone() -> dict:
    """What ``python eval.py`` does in a clone of the last commit: seconds, table rows, pictures."""
    with tempfile.TemporaryDirectory() as folder:
        clone, cwd = Path(folder) / "clone", Path(folder) / "elsewhere"
        words = ["git", "clone", "--quiet", "--local", str(ROOT), str(clone)]
        if subprocess.run(words, capture_output=True).returncode:
            raise NotMeasuredError("the repository is no git checkout, so there is no clone of it")
        cwd.mkdir()
        done, seconds = first_look(clone, cwd)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        files = written(done, cwd)
        pictures = [path for each in files if each.is_dir() for path in each.glob("*.png")]
        table = next(line for line in done.stdout.splitlines() if line.startswith("kl "))
        return {"seconds": seconds, "pictures": len(pictures), "table": " ".join(table.split())}


def seconds_of_first_look() -> Figure:
    return Figure(fresh_clone()["seconds"], fresh_clone()["table"])


def pictures_of_first_look() -> Figure:
    return Figure(fresh_clone()["pictures"])


def first_look_claims() -> list[Claim]:
    scope = "fresh clone, offline, python eval.py: "
    return [
        on_the_spot(scope + "time", seconds_of_first_look, "<", 120, "s"),
        on_the_spot(scope + "pictures", pictures_of_first_look, ">=", 1),
    ]


# --- the study ---------------------------------------------------------------------------------


def study_rows() -> list[dict[str, Cell]]:
    """The runs of the study that docs/ holds."""
    if not STUDY.is_file():
        raise NotMeasuredError(f"no {STUDY.name} in docs/scaling/ yet")
    return read_rows(STUDY)


def full_cells(rows: list[dict[str, Cell]]) -> Figure:
    """Sizes that were trained with at least two budgets of at least two seeds each."""
    seeds: dict[tuple[Cell, Cell], set[Cell]] = {}
    for row in rows:
        seeds.setdefault((row["size"], row["budget"]), set()).add(row["seed"])
    budgets: dict[Cell, int] = {}
    for (size, _), own in seeds.items():
        budgets[size] = budgets.get(size, 0) + (len(own) >= 2)
    sizes = sum(count >= 2 for count in budgets.values())
    return Figure(sizes, f"{len(rows)} runs, {len(seeds)} cells of size and budget")


def trend(rows: list[dict[str, Cell]], num_draws: int = DRAWS) -> Figure:
    """Token budgets at which both exponent and rank correlation of EPE with size have intervals.

    Both are what the page of the study says (``studies``), and whether they can be told from none;
    of exponents the search ends at -6 and 6.
    """
    column = next(name for name in rows[0] if name.endswith("/epe_px"))
    budgets: dict[float, list[dict[str, Cell]]] = {}
    for row in rows:
        if row["budget_unit"] == "tokens" and row[column]:  # of log y: 0 has none
            budgets.setdefault(row["budget"], []).append(row)
    said, known = [], 0
    for budget, own in sorted(budgets.items()):
        law, rank = with_size(own, column, num_draws)
        refused = [each.reason for each in (law, rank) if isinstance(each, Refused)]
        if refused:
            said.append(f"{short(budget)} tokens: {refused[0]}")
            continue
        exponent, rho = law.exponents[0], rank.rho
        ends = (exponent.low, exponent.high, rho.low, rho.high)
        known += all(map(math.isfinite, ends))
        told = law.has_trend, rank.is_told
        said.append(
            f"{short(budget)} tokens: exponent {interval(exponent, '.2g')}{UNTOLD[told[0]]}, "
            f"rank correlation {interval(rho, '+.2f')}{UNTOLD[told[1]]}"
        )
    return Figure(known, f"{column}: {'; '.join(said)}")


def with_size(
    rows: list[dict[str, Cell]], column: str, num_draws: int
) -> tuple[Law | Refused, RankCorrelation | Refused]:
    """The law and the rank correlation of runs of one budget, in the order of the CSV."""
    x, y = (np.array([row[name] for row in rows], dtype=float) for name in ("blocks", column))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    cells = np.array([sizes.index(row["size"]) for row in rows], dtype=int)
    seeds = np.array([row["seed"] for row in rows], dtype=int)
    law = fit_law(x[:, None], y, cells, STUDY_SEED, num_draws)
    return law, rank_correlation(x, y, cells, seeds, STUDY_SEED)


def laws_recovered() -> Figure:
    if missing := [path.name for path in LAWS if not path.is_file()]:
        raise NotMeasuredError(f"there is no {missing[0]} yet")
    return failing_tests(" ".join(str(path.relative_to(ROOT)) for path in LAWS))


def study_claims() -> list[Claim]:
    full, sloped = (lambda: full_cells(study_rows())), (lambda: trend(study_rows()))
    return [
        on_the_spot("study: sizes with two budgets of two seeds", full, ">=", 4),
        on_the_spot("study: budgets with intervals of EPE against size", sloped, ">=", 2),
        on_the_spot("study: known laws recovered: failing tests", laws_recovered, "==", 0),
    ]


CLAIMS = [
    *model_claims(NANO, BEST),
    *first_look_claims(),
    *study_claims(),
    *model_claims(MICRO, "lras_micro"),
]
