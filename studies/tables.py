"""The tables of a study as text cells, for the terminal and the page."""

from collections.abc import Mapping, Sequence

from studies.collect import Run, Study, powers, short
from studies.emergence import Emergence
from studies.findings import UNITS, Findings, Fit
from studies.isoflop import Optimum, Trend
from studies.laws import Law, Refused
from studies.texts import formula, interval, size_interval
from tracing.report_tables import NONE, Sheet

_FEW = 3  # names that are spelled out in one cell


def sheets_of(study: Study, found: Findings) -> list[Sheet]:
    """All but the runs themselves, in the order of the page."""
    sheets = [_laws(found), _refused(found), _ranks(found), _emergence(study, found)]
    sheets.append(_isoflop(found))
    return [sheet for sheet in sheets if sheet.lines]


def runs_sheet(study: Study, found: Findings) -> Sheet:
    """One line a run, in the order of the study; the first cell is its folder."""
    head = (
        "run",
        "size",
        "budget",
        "seed",
        "parameters",
        "tokens",
        "FLOPs",
        "loss (nats)",
        "EPE (px)",
    )
    head += ("95 %", "/ zero", "AD (px)", "delta_avg", "hit", "emerged at step", "minutes")
    lines = [
        _run_line(run, found, seen) for run, seen in zip(study.runs, found.emerged, strict=True)
    ]
    said = (
        f"Flow on {found.set_name}; zero motion {found.zero_px:.2f} px, read-out floor "
        f"{found.floor_px:.2f} px. Parameters are those of the blocks; runs.csv has every column."
    )
    return Sheet("Runs", head, tuple(lines), said)


def _run_line(run: Run, found: Findings, seen: Emergence | None) -> tuple[str, ...]:
    card, figures = run.card, run.figures(found.set_name)
    line = [run.path, card.size, run.budget, str(card.seed), short(run.blocks)]
    line += [short(card.tokens), powers(card.flops), f"{card.loss_nats:.3f}"]
    if figures is None:
        line += [NONE] * 6
    else:
        low, high = figures.epe_ci95_px
        line += [f"{figures.epe_px:.2f}", f"{low:.2f} to {high:.2f}"]
        line += [f"{figures.epe_px / figures.zero_epe_px:.2f}", f"{figures.ad_px:.2f}"]
        line += [f"{figures.delta_avg:.3f}", f"{figures.hit:.3f}"]
    line.append(f"not in {card.steps:,}" if seen is None else f"{seen.step:,}")
    return (*line, f"{card.seconds / 60:.1f}")


def _laws(found: Findings) -> Sheet:
    head = (
        "law",
        "among",
        "fit",
        "exponent [95 %]",
        "floor [95 %]",
        "typical miss",
        "points, runs",
    )
    head += ("trend",)
    lines = [_law_line(fit, fit.law) for fit in found.fits if isinstance(fit.law, Law)]
    return Sheet("Power laws with a floor", head, tuple(lines))


def _law_line(fit: Fit, law: Law) -> tuple[str, ...]:
    names = ("",) if len(law.exponents) == 1 else ("α ", "β ")
    powers = [f"{name}{interval(e)}" for name, e in zip(names, law.exponents, strict=True)]
    told = "told" if law.has_trend else "not to be told from none"
    return (
        f"{fit.measure} ({UNITS[fit.measure]}) against {fit.axis}",
        fit.among,
        formula(law),
        ", ".join(powers),
        interval(law.floor),
        f"{law.miss:.1%}",
        f"{law.points}, {law.runs}",
        told,
    )


def _refused(found: Findings) -> Sheet:
    alike: dict[tuple[str, str, str], list[str]] = {}
    for fit in found.fits:
        if isinstance(fit.law, Refused):
            alike.setdefault((fit.measure, fit.axis, fit.law.reason), []).append(fit.among)
    lines = [
        (f"{measure} against {axis}", _names(among), reason)
        for (measure, axis, reason), among in alike.items()
    ]
    return Sheet("Laws that were not fitted", ("law", "among", "why"), tuple(lines))


def _names(among: Sequence[str]) -> str:
    return ", ".join(among) if len(among) <= _FEW else f"{len(among)} of them, each by itself"


def _ranks(found: Findings) -> Sheet:
    lines = []
    for budget, rank in found.ranks.items():
        if isinstance(rank, Refused):
            lines.append((budget, NONE, NONE, NONE, rank.reason))
            continue
        told = "told" if rank.is_told else "not to be told from none"
        counts = f"{rank.points}, {rank.runs}"
        lines.append((budget, interval(rank.rho, "+.2f"), f"{rank.p:.2g}", counts, told))
    said = (
        "Spearman's, -1 where EPE falls with every size; the interval draws sizes with "
        "replacement, seeds together, p deals the sizes out anew among the runs of each seed. "
        "Told: the interval leaves out 0 and p is under 0.05."
    )
    head = ("budget", "rho [95 %]", "p", "sizes, runs", "trend")
    return Sheet("Rank correlation of EPE with size", head, tuple(lines), said)


def _emergence(study: Study, found: Findings) -> Sheet:
    cells: dict[tuple[str, str], list[tuple[Run, Emergence | None]]] = {}
    for run, seen in zip(study.runs, found.emerged, strict=True):
        cells.setdefault(run.cell, []).append((run, seen))
    lines = [_emergence_line(members) for members in cells.values()]
    said = (
        f"The first probe with EPE on {found.set_name} of at most {found.emergence_share:g} of "
        "zero motion's that the next probe confirms; the last one needs no next. Known to the "
        "distance of two probes."
    )
    head = ("size", "budget", "emerged", "step", "tokens", "FLOPs")
    return Sheet("Emergence of flow", head, tuple(lines), said)


def _emergence_line(members: Sequence[tuple[Run, Emergence | None]]) -> tuple[str, ...]:
    run = members[0][0]
    seen = [each for _, each in members if each is not None]
    line = (run.card.size, run.budget, f"{len(seen)} of {len(members)}")
    if not seen:
        return (*line, f"not within {max(r.card.steps for r, _ in members):,}", NONE, NONE)
    spans = []
    for name, form in (("step", "{:,}".format), ("tokens", short), ("flops", powers)):
        values = [getattr(each, name) for each in seen]
        texts = [form(value) for value in (min(values), max(values))]
        spans.append(texts[0] if texts[0] == texts[1] else " to ".join(texts))
    return (*line, *spans)


def _isoflop(found: Findings) -> Sheet:
    lines = []
    for group in found.groups:
        for measure, best in group.optima.items():
            if isinstance(best, Optimum):
                counts = f"{best.sizes}, {best.runs}"
                own = (size_interval(best.parameters), f"{best.lowest:.3g}", counts, "")
            else:
                own = (NONE, NONE, NONE, best.reason)
            lines.append((group.name, f"{measure} ({UNITS[measure]})", *own))
    return Sheet(
        "IsoFLOP: the best size of each budget",
        ("budget", "by", "best size [95 %]", "lowest", "sizes, runs", ""),
        tuple(lines),
        _trends(found.trends) if lines else "",
    )


def _trends(trends: Mapping[str, Trend | Refused]) -> str:
    said = "A parabola in log10 parameters; the minimum and its interval. "
    for measure, trend in trends.items():
        if isinstance(trend, Trend):
            exponent = interval(trend.exponent)
            said += f"By {measure} the best size grows as budget^{exponent}. "
        else:
            said += f"No law of the best size by {measure}: {trend.reason}. "
    return said.strip()
