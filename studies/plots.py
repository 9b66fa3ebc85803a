"""The pictures of a study. Figure objects only; every point of a run links to its folder."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from studies.card import CurvePoint
from studies.collect import Run, Study, powers, short
from studies.findings import AXES, EVERY, UNITS, Findings, IsoFlop, measured
from studies.isoflop import Optimum

Link = Callable[[Run], str]  # where a run's points lead
LABELS = {
    "parameters": "parameters of the blocks",
    "tokens": "training tokens",
    "FLOPs": "training FLOPs",
}
_OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000"]
_MARKERS = "osD^vP*X"
_NEARLY_NONE = 0.01  # of zero motion
_LEGEND = {"fontsize": 8, "frameon": False}


def figures_of(study: Study, found: Findings, link: Link) -> dict[str, tuple[Figure, str]]:
    """Each picture and its caption, by the name of its files; one without a point is left out."""
    at_end = "Each point is one run; a line is a fitted law, its band the 95 % interval."
    told = [
        {m for m in UNITS if measured(run, m, found.set_name) is not None} for run in study.runs
    ]
    figures = {}
    if any("EPE" in each for each in told) or any(_probed(run, found) for run in study.runs):
        figures["curves"] = (
            curves(study, found, link),
            "Flow while training went on; dots: the evaluation at the end, on points of its own.",
        )
    if any(told):
        figures |= {
            "by_size": (against(study, found, "parameters", link), f"By size. {at_end}"),
            "by_tokens": (against(study, found, "tokens", link), f"By training tokens. {at_end}"),
            "by_flops": (against(study, found, "FLOPs", link), f"By training FLOPs. {at_end}"),
        }
    if any({"EPE", "loss"} <= each for each in told):
        caption = "Flow against loss at the end of each run."
        figures["flow_loss"] = (flow_loss(study, found, link), caption)
    figures["emergence"] = (
        emergence_by_size(study, found, link),
        f"When flow emerged: the first probe at {found.emergence_share:g} of zero motion's EPE "
        "or less that the next one confirms. Hollow: not within the run, drawn at its end.",
    )
    if any(len({run.card.size for run in group.runs}) > 2 for group in found.groups):
        caption = "Runs of one FLOP budget; a parabola where it has a minimum that can be told."
        figures["isoflop"] = (isoflop(study, found, link), caption)
    return figures


def curves(study: Study, found: Findings, link: Link) -> Figure:
    """EPE of every run against tokens and against FLOPs."""
    figure = _figure(10.5, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    colors = _size_colors(study)
    for axes, axis in zip(panels, ("tokens", "FLOPs"), strict=True):
        for run in study.runs:
            color = colors[run.card.size]
            if points := _probed(run, found):
                x = [getattr(point, axis.lower()) for point in points]
                y = [point.sets[found.set_name].epe_px for point in points]
                axes.plot(x, y, color=color, linewidth=1, alpha=0.7)
            if (end := measured(run, "EPE", found.set_name)) is not None:
                _points(axes, [run], [AXES[axis](run)], [end], color, "o", link)
        _levels(axes, found)
        _log(axes.xaxis, axis)
        axes.set_xlabel(LABELS[axis])
        _epe_axis(axes, found)
        axes.grid(alpha=0.2)
    panels[0].set_ylabel(f"EPE on {found.set_name} (px)")
    _legend(figure, panels[0], {name: (colors[name], "o") for name in study.sizes}, "size")
    return figure


def against(study: Study, found: Findings, axis: str, link: Link) -> Figure:
    """Final EPE and loss against parameters, tokens or FLOPs, with the laws that were fitted."""
    figure = _figure(10.5, 4.4)
    panels = figure.subplots(1, 2)
    colors, markers = _size_colors(study), _budget_markers(study)
    by_budget = axis == "parameters"
    names = study.budgets if by_budget else study.sizes
    if by_budget:
        colors = _budget_colors(study)
    for axes, measure in zip(panels, ("EPE", "loss"), strict=True):
        for name in names:
            runs = [r for r in study.runs if (r.budget if by_budget else r.card.size) == name]
            for budget in study.budgets:
                own = [run for run in runs if run.budget == budget]
                _runs(axes, own, axis, measure, found, colors[name], markers[budget], link)
        if measure == "EPE":
            _levels(axes, found)
            _epe_axis(axes, found)
        limits = axes.get_ylim()  # of what was measured; a band may leave them
        laws = {EVERY: "0.25"} if axis == "FLOPs" else {name: colors[name] for name in names}
        for among, color in laws.items():
            _law(axes, found, measure, axis, among, color, study)
        axes.set_ylim(limits)
        axes.set_ylabel(_of_measure(measure, found))
        _log(axes.xaxis, axis)
        axes.set_xlabel(LABELS[axis])
        axes.grid(alpha=0.2)
    marks = {n: (colors[n], markers[n] if by_budget else "o") for n in names}
    if not by_budget and len(study.budgets) > 1:
        marks |= {budget: ("0.5", markers[budget]) for budget in study.budgets}
    _legend(figure, panels[0], marks, "budget" if by_budget else "size, budget")
    return figure


def flow_loss(study: Study, found: Findings, link: Link) -> Figure:
    """EPE against loss."""
    figure = _figure(7.0, 4.4)
    axes = figure.subplots()
    colors, markers = _size_colors(study), _budget_markers(study)
    for run in study.runs:
        loss = measured(run, "loss", found.set_name)
        error = measured(run, "EPE", found.set_name)
        if loss is not None and error is not None:
            mark = markers[run.budget]
            _points(axes, [run], [loss], [error], colors[run.card.size], mark, link)
    _levels(axes, found)
    _epe_axis(axes, found)
    axes.set(xlabel=_of_measure("loss", found), ylabel=_of_measure("EPE", found))
    axes.grid(alpha=0.2)
    marks = {name: (colors[name], "o") for name in study.sizes}
    if len(study.budgets) > 1:
        marks |= {budget: ("0.5", markers[budget]) for budget in study.budgets}
    _legend(figure, axes, marks, "size, budget")
    return figure


def emergence_by_size(study: Study, found: Findings, link: Link) -> Figure:
    """Tokens at emergence against parameters."""
    figure = _figure(7.0, 4.4)
    axes = figure.subplots()
    colors, markers = _budget_colors(study), _budget_markers(study)
    for run, seen in zip(study.runs, found.emerged, strict=True):
        spent = run.card.tokens if seen is None else seen.tokens
        hollow = seen is None
        mark = markers[run.budget]
        _points(axes, [run], [run.blocks], [spent], colors[run.budget], mark, link, hollow)
    _log(axes.xaxis)
    _log(axes.yaxis)
    axes.set(xlabel=LABELS["parameters"], ylabel=f"tokens at which flow emerged ({found.set_name})")
    axes.grid(alpha=0.2)
    marks = {budget: (colors[budget], markers[budget]) for budget in study.budgets}
    _legend(figure, axes, marks, "budget")
    return figure


def isoflop(study: Study, found: Findings, link: Link) -> Figure:
    """Loss and EPE against parameters at each FLOP budget; the best size against the budget."""
    figure = _figure(12.5, 4.4)
    panels = figure.subplots(1, 3)
    groups = [g for g in found.groups if len({run.card.size for run in g.runs}) > 2]
    colors = _spread([group.name for group in groups])
    for axes, measure in zip(panels, ("loss", "EPE"), strict=False):
        for group in groups:
            color = colors[group.name]
            _runs(axes, group.runs, "parameters", measure, found, color, "o", link)
            _parabola(axes, group, measure, color)
        if measure == "EPE":
            _levels(axes, found)
        _log(axes.xaxis)
        axes.set(xlabel=LABELS["parameters"], ylabel=_of_measure(measure, found))
        axes.grid(alpha=0.2)
    for number, measure in enumerate(("loss", "EPE")):
        known = [(g.flops, o) for g in groups if isinstance(o := g.optima[measure], Optimum)]
        for flops, best in known:
            size = best.parameters
            panels[2].errorbar(
                flops * (0.98, 1.02)[number],  # side by side
                size.value,
                yerr=[[max(0, size.value - size.low)], [max(0, size.high - size.value)]],
                fmt=_MARKERS[number],
                color=_OKABE_ITO[number],
                capsize=3,
            )
    if not any(isinstance(o, Optimum) for g in groups for o in g.optima.values()):
        panels[2].text(0.5, 0.5, "no budget has a minimum\nthat can be told", ha="center")
        panels[2].set(xticks=[], yticks=[])
    else:
        _log(panels[2].xaxis, "FLOPs")
        _log(panels[2].yaxis)
        handles = [_handle(_OKABE_ITO[i], _MARKERS[i]) for i in range(2)]
        panels[2].legend(handles, ["loss", "EPE"], title="best by", title_fontsize=8, **_LEGEND)
    panels[2].set(xlabel="FLOP budget", ylabel="best size (parameters of the blocks)")
    panels[2].grid(alpha=0.2)
    _legend(figure, panels[1], {name: (color, "o") for name, color in colors.items()}, "budget")
    return figure


def _probed(run: Run, found: Findings) -> list[CurvePoint]:
    """Probes of the set while the run trained; none where no error is finite."""
    known = [each for each in run.card.curve if found.set_name in each.sets and each.tokens > 0]
    finite = any(np.isfinite(each.sets[found.set_name].epe_px) for each in known)
    return known if finite else []


def _runs(
    axes: Axes,
    runs: Sequence[Run],
    axis: str,
    measure: str,
    found: Findings,
    color: str,
    marker: str,
    link: Link,
) -> None:
    known = [(run, y) for run in runs if (y := measured(run, measure, found.set_name)) is not None]
    if known:
        x = [AXES[axis](run) for run, _ in known]
        _points(axes, [run for run, _ in known], x, [y for _, y in known], color, marker, link)


def _points(
    axes: Axes,
    runs: Sequence[Run],
    x: Sequence[float | int],
    y: Sequence[float | int],
    color: str,
    marker: str,
    link: Link,
    hollow: bool = False,
) -> None:
    face = {"facecolors": "none", "edgecolors": color} if hollow else {"color": color}
    drawn = axes.scatter(x, y, s=34, marker=marker, alpha=0.85, zorder=3, linewidths=1.2, **face)
    drawn.set_urls([link(run) for run in runs])


def _law(
    axes: Axes, found: Findings, measure: str, axis: str, among: str, color: str, study: Study
) -> None:
    if (law := found.fit(measure, axis, among)) is None:
        return
    own = [AXES[axis](r) for r in study.runs if among in (EVERY, r.budget, r.card.size)]
    x = np.geomspace(min(own), max(own), 80)[:, None]
    low, high = law.band(x)
    # A law that cannot be told from none is drawn pale and without its band, which fills the panel.
    axes.plot(x[:, 0], law.at(x), color=color, linewidth=1.4, alpha=1 if law.has_trend else 0.4)
    if law.has_trend:
        axes.fill_between(x[:, 0], low, high, color=color, alpha=0.13, linewidth=0)


def _parabola(axes: Axes, group: IsoFlop, measure: str, color: str) -> None:
    best = group.optima[measure]
    if not isinstance(best, Optimum):
        return
    sizes = [run.blocks for run in group.runs]
    x = np.geomspace(min(sizes), max(sizes), 80)
    axes.plot(x, best.at(x), color=color, linewidth=1.4)
    axes.plot(best.parameters.value, best.lowest, marker="v", markersize=9, color=color)
    axes.axvspan(best.parameters.low, best.parameters.high, color=color, alpha=0.08, linewidth=0)


def _levels(axes: Axes, found: Findings) -> None:
    for value, name, style in (
        (found.zero_px, "zero motion", "--"),
        (found.floor_px, "read-out floor", ":"),
    ):
        if np.isfinite(value):
            axes.axhline(
                value, linestyle=style, color="0.35", linewidth=1, label=f"{name} {value:.2f} px"
            )


def _of_measure(measure: str, found: Findings) -> str:
    return f"EPE on {found.set_name} (px)" if measure == "EPE" else "held-out loss (nats per code)"


def _epe_axis(axes: Axes, found: Findings) -> None:
    """Logarithmic, unless the floor is (nearly) 0, which has no place on such an axis."""
    shown = [found.floor_px, *(y for offsets in _offsets(axes) for y in offsets[:, 1])]
    if min(shown) > _NEARLY_NONE * found.zero_px:
        _log(axes.yaxis)
        return
    # What an untrained model answers, anywhere, is not what the picture is about.
    axes.set_ylim(-0.03 * found.zero_px, 1.3 * max(found.zero_px, *shown))


def _offsets(axes: Axes) -> list[np.ndarray]:
    """The points of runs, (points, 2) each time."""
    return [drawn.get_offsets() for drawn in axes.collections if len(drawn.get_offsets())]


def _log(axis: Axis, quantity: str = "") -> None:
    """A logarithmic axis with plain numbers where there are few decades."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    by_spread = {8: (1, 1.5, 2, 3, 5, 7), 100: (1, 2, 5), 1000: (1, 3), np.inf: (1,)}
    subs = next(subs for most, subs in by_spread.items() if high / low < most)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    text = powers if quantity == "FLOPs" else short
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def _legend(figure: Figure, axes: Axes, marks: dict[str, tuple[str, str]], title: str) -> None:
    """Beside the panels, so that it covers nothing: the marks, then the level lines of ``axes``."""
    handles = [_handle(color, marker) for color, marker in marks.values()]
    lines, names = axes.get_legend_handles_labels()
    figure.legend(
        [*handles, *lines],
        [*marks, *names],
        title=title,
        title_fontsize=8,
        loc="outside right upper",
        alignment="left",
        **_LEGEND,
    )


def _handle(color: str, marker: str) -> Line2D:
    return Line2D([], [], color=color, marker=marker, linestyle="none", markersize=6)


def _size_colors(study: Study) -> dict[str, str]:
    return _spread(study.sizes)


def _spread(names: Sequence[str]) -> dict[str, str]:
    """Shades of viridis in their order, without its palest."""
    shades = np.linspace(0, 0.85, max(2, len(names)))
    return {
        name: to_hex(colormaps["viridis"](shade))
        for name, shade in zip(names, shades, strict=False)
    }


def _budget_colors(study: Study) -> dict[str, str]:
    if len(study.budgets) > len(_OKABE_ITO):
        return _spread(study.budgets)
    return dict(zip(study.budgets, _OKABE_ITO, strict=False))


def _budget_markers(study: Study) -> dict[str, str]:
    return {budget: _MARKERS[i % len(_MARKERS)] for i, budget in enumerate(study.budgets)}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    return figure
