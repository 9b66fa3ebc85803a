"""What a study shows, in sentences with figures."""

from studies.collect import Study, short
from studies.findings import EVERY, Findings, Fit, measured
from studies.isoflop import Optimum, Trend
from studies.laws import Estimate, Law, Refused

HOW_TO_READ = (
    "A law is y = floor + a x^-b (of two axes: floor + A N^-α + B D^-β), floor at least 0, fitted "
    "to log y under a Huber loss. Its 95 % interval is a bootstrap of residuals: every size and "
    "budget stays and is given the residuals of one drawn at random, those of its seeds together, "
    "with a random sign, stretched for the parameters fitted and for how few runs there are. Runs "
    "of one seed at several sizes count as independent. An exponent whose interval holds 0 is a "
    "trend that cannot be told from none; exponents are searched between -6 and 6. The floor of a "
    "law is where it levels off by itself; the read-out floor is the EPE of a perfect arg-max."
)


def title_of(study: Study, found: Findings) -> str:
    return f"Scaling study: flow on {found.set_name}, {len(study.runs)} runs"


def summary_of(study: Study, found: Findings) -> list[str]:
    """The sentences that open the page."""
    said = [_what_was_run(study, found)]
    for measure in ("EPE", "loss"):
        fits = [f for f in found.fits if f.measure == measure and f.axis == "parameters"]
        said += [_trend_sentence(fit) for fit in fits if isinstance(fit.law, Law)]
        whole = [f for f in found.fits if f.measure == measure and f.among == EVERY]
        said += [_trend_sentence(fit) for fit in whole if isinstance(fit.law, Law)]
    said.append(_ranks(found))
    said.append(_emergence(study, found))
    said += _isoflop(found)
    return [sentence for sentence in said if sentence]


def interval(estimate: Estimate, form: str = ".3g") -> str:
    """A figure with its interval: 0.34 [0.30, 0.39]."""
    value, low, high = (
        format(each, form) for each in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def size_interval(estimate: Estimate) -> str:
    """The same of a number of parameters: 0.3M [0.2M, 0.5M]."""
    return f"{short(estimate.value)} [{short(estimate.low)}, {short(estimate.high)}]"


def formula(law: Law) -> str:
    """The law in figures."""
    if len(law.exponents) == 1:
        return f"{law.floor.value:.3g} + {law.scales[0].value:.3g} x^{-law.exponents[0].value:.3g}"
    (a, b), (alpha, beta) = law.scales, law.exponents
    return (
        f"{law.floor.value:.3g} + {a.value:.3g} N^{-alpha.value:.3g} "
        f"+ {b.value:.3g} D^{-beta.value:.3g}"
    )


def _what_was_run(study: Study, found: Findings) -> str:
    blocks = [run.blocks for run in study.runs]
    said = (
        f"{_count(len(study.runs), 'run')} of {_count(len(study.sizes), 'size')} "
        f"({short(min(blocks))} to {short(max(blocks))} parameters in blocks), "
        f"{_count(len(study.budgets), 'budget')} ({', '.join(study.budgets)}) and "
        f"{_count(len(study.seeds), 'seed')}"
    )
    missing = sum(run.figures(found.set_name) is None for run in study.runs)
    if missing:
        said += f"; {missing} without a finite EPE on {found.set_name}"
    if zeros := sum(measured(run, "EPE", found.set_name) == 0 for run in study.runs):
        said += f"; {zeros} with an EPE of exactly 0, which a law of log y leaves out"
    if study.unfinished:
        said += f"; {len(study.unfinished)} more unfinished"
    if study.damaged:
        said += f"; {_count(len(study.damaged), 'damaged card')} left out"
    return said + "."


def _trend_sentence(fit: Fit) -> str:
    law, what = fit.law, fit.measure[0].upper() + fit.measure[1:]
    where = "over all runs" if fit.among == EVERY else f"at {fit.among}"
    if len(law.exponents) == 2:
        (alpha, beta), floor = law.exponents, interval(law.floor)
        return (
            f"{what} over parameters N and tokens D together: α = {interval(alpha)}, "
            f"β = {interval(beta)}, floor {floor}{_untold(law)}."
        )
    exponent = law.exponents[0]
    said = f"{what} against {fit.axis} {where}: exponent b = {interval(exponent)}"
    if not law.has_trend:
        return f"{said}: a trend that cannot be told from none."
    way = "falls, towards" if exponent.value > 0 else "grows, from"
    return f"{said}: {fit.measure} {way} a floor of {interval(law.floor)}."


def _untold(law: Law) -> str:
    names = [n for n, e in zip("αβ", law.exponents, strict=True) if not e.excludes_zero]
    return f"; {' and '.join(names)} cannot be told from 0" if names else ""


def _ranks(found: Findings) -> str:
    parts = []
    for budget, rank in found.ranks.items():
        if not isinstance(rank, Refused):
            told = "" if rank.is_told else ", not to be told from none"
            parts.append(f"{interval(rank.rho, '+.2f')} at {budget} (p = {rank.p:.2g}{told})")
    return f"Rank correlation of EPE with size: {'; '.join(parts)}." if parts else ""


def _emergence(study: Study, found: Findings) -> str:
    seen = [each.tokens for each in found.emerged if each is not None]
    said = (
        f"Flow emerged (EPE on {found.set_name} at most {found.emergence_share:g} of zero "
        f"motion's) in {len(seen)} of {_count(len(study.runs), 'run')}"
    )
    if seen:
        said += f", after {short(min(seen))} to {short(max(seen))} tokens"
    return said + "."


def _isoflop(found: Findings) -> list[str]:
    said = []
    for measure, trend in found.trends.items():
        best = [
            f"{size_interval(each.parameters)} at {group.name}"
            for group in found.groups
            if isinstance(each := group.optima[measure], Optimum)
        ]
        if best:
            said.append(f"Best size by {measure}: {'; '.join(best)}.")
        if isinstance(trend, Trend):
            said.append(
                f"It grows as budget^{interval(trend.exponent)} by {measure}, over "
                f"{trend.budgets} budgets."
            )
    return said


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
