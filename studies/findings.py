"""All that is computed from the runs of a study, before it becomes tables, plots and sentences."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from studies.collect import Run, Study, asked_flops, flops_groups, powers
from studies.emergence import Emergence, emergence
from studies.isoflop import Optimum, Trend, optimum, trend
from studies.laws import Law, Refused, fit_law
from studies.ranks import RankCorrelation, rank_correlation

EVERY = "all runs"
AXES: dict[str, Callable[[Run], float]] = {
    "parameters": lambda run: run.blocks,
    "tokens": lambda run: run.card.tokens,
    "FLOPs": lambda run: run.card.flops,
}
UNITS = {"EPE": "px", "loss": "nats per code"}


@dataclass(frozen=True)
class Fit:
    """A law of ``measure`` against ``axis`` among some of the runs."""

    measure: str  # of UNITS
    axis: str  # of AXES, or both of a joint law
    among: str  # a budget, a size, or all runs
    law: Law | Refused


@dataclass(frozen=True)
class IsoFlop:
    """Runs of one FLOP budget, and the best size among them by each measure."""

    flops: float
    runs: tuple[Run, ...]
    optima: dict[str, Optimum | Refused]

    @property
    def name(self) -> str:
        return f"{powers(self.flops)} FLOPs"


@dataclass(frozen=True)
class Findings:
    """What a study shows of flow on one set and of the loss."""

    set_name: str
    fits: tuple[Fit, ...]
    ranks: dict[str, RankCorrelation | Refused]  # of EPE with size, by budget
    emerged: tuple[Emergence | None, ...]  # of each run of the study
    emergence_share: float
    groups: tuple[IsoFlop, ...]
    trends: dict[str, Trend | Refused]  # of the best size with the budget, by measure
    zero_px: float
    floor_px: float

    def fit(self, measure: str, axis: str, among: str) -> Law | None:
        """That law; None where it was refused or not asked for."""
        for fit in self.fits:
            if (fit.measure, fit.axis, fit.among) == (measure, axis, among):
                return fit.law if isinstance(fit.law, Law) else None
        return None


def measured(run: Run, measure: str, set_name: str) -> float | None:
    """EPE on the set or held-out loss; None where the run has no finite one."""
    if measure == "loss":
        value = run.card.loss_nats
    else:
        figures = run.figures(set_name)
        value = math.nan if figures is None else figures.epe_px
    return value if math.isfinite(value) else None


def findings(study: Study, set_name: str, share: float, seed: int, num_draws: int) -> Findings:
    """Every law, correlation, emergence and optimum; all random draws follow from ``seed``."""
    groups = _groups(study, set_name, seed, num_draws)
    trends = {}
    for measure in UNITS:
        found = [(g.flops, o) for g in groups if isinstance(o := g.optima[measure], Optimum)]
        trends[measure] = trend([flops for flops, _ in found], [each for _, each in found])
    with_set = [run.card.sets[set_name] for run in study.runs if set_name in run.card.sets]
    return Findings(
        set_name=set_name,
        fits=tuple(_fits(study, set_name, seed, num_draws)),
        ranks={
            budget: _rank([run for run in study.runs if run.budget == budget], set_name, seed)
            for budget in study.budgets
        },
        emerged=tuple(emergence(run.card.curve, set_name, share) for run in study.runs),
        emergence_share=share,
        groups=tuple(groups),
        trends=trends,
        zero_px=_median([figures.zero_epe_px for figures in with_set]),
        floor_px=_median([figures.floor_px for figures in with_set]),
    )


def _fits(study: Study, set_name: str, seed: int, num_draws: int) -> list[Fit]:
    # At one FLOP budget more parameters mean fewer tokens: that is no law but a parabola.
    of_tokens = {run.budget for run in study.runs if "tokens" in run.card.budget}
    parts = [
        ("parameters", budget, lambda run, b=budget: run.budget == b)
        for budget in study.budgets
        if budget in of_tokens
    ]
    parts += [("tokens", size, lambda run, s=size: run.card.size == s) for size in study.sizes]
    parts += [
        ("FLOPs", EVERY, lambda run: True),
        ("parameters and tokens", EVERY, lambda run: True),
    ]
    fits = []
    for measure in UNITS:
        for axis, among, belongs in parts:
            runs = [run for run in study.runs if belongs(run)]
            runs, y = _with(runs, measure, set_name)
            runs, y = [run for run, value in zip(runs, y, strict=True) if value > 0], y[y > 0]
            law: Law | Refused = Refused("no run has a positive finite one")
            if runs:  # of log y: an EPE of exactly 0 has none
                x = np.array([[AXES[name](run) for name in axis.split(" and ")] for run in runs])
                law = fit_law(x.astype(float), y, _cells(runs), seed, num_draws)
            fits.append(Fit(measure, axis, among, law))
    return fits


def _groups(study: Study, set_name: str, seed: int, num_draws: int) -> list[IsoFlop]:
    """Those of at least two sizes."""
    groups = []
    for runs in flops_groups(study.runs):
        if len({run.card.size for run in runs}) < 2:
            continue
        optima: dict[str, Optimum | Refused] = {}
        for measure in UNITS:
            known, y = _with(runs, measure, set_name)
            sizes = np.array([float(run.blocks) for run in known])
            optima[measure] = (
                optimum(sizes, y, _cells(known), seed, num_draws)
                if known
                else Refused("no run has a finite one")
            )
        groups.append(IsoFlop(asked_flops(runs[0]), tuple(runs), optima))
    return groups


def _rank(runs: Sequence[Run], set_name: str, seed: int) -> RankCorrelation | Refused:
    known, y = _with(runs, "EPE", set_name)
    x = np.array([float(run.blocks) for run in known])
    seeds = np.array([run.card.seed for run in known], dtype=int)
    return rank_correlation(x, y, _cells(known), seeds, seed)


def _with(runs: Sequence[Run], measure: str, set_name: str) -> tuple[list[Run], np.ndarray]:
    known = [(run, y) for run in runs if (y := measured(run, measure, set_name)) is not None]
    return [run for run, _ in known], np.array([y for _, y in known], dtype=float)


def _cells(runs: Sequence[Run]) -> np.ndarray:
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(run.cell, len(numbers)) for run in runs], dtype=int)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan
