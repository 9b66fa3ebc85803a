"""Pictures of flow and of what a tracer saw. Figure objects only: no display, no global state.

Every picture is a matplotlib Figure; ``png_bytes`` and ``save_png`` turn it into a file.
"""

import io
import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import flow_to_image

FULL_COLOR_SHARE = 0.98  # a few lost queries point anywhere, and would bleach all others
COLORS = {"query": "#00a0ff", "true": "#20c040", "predicted": "#e02020"}


def flow_colors(
    flow: Float[Tensor, "2 height width"], max_px: float | None = None
) -> UInt8[Tensor, "3 height width"]:
    """Baker's color wheel: hue is direction, white is no motion, full color is ``max_px``.

    Longer displacements are shown as ``max_px``; None takes the longest of this field, so two
    pictures compare only when both are given one ``max_px``.
    """
    length = flow.norm(dim=0, keepdim=True)
    longest = length.max().item() if max_px is None else max_px
    if longest <= 0:
        return torch.full_like(flow[:1], 255, dtype=torch.uint8).expand(3, -1, -1).clone()
    flow = flow * (longest / length.clamp_min(longest))
    # torchvision scales by the longest vector it sees, so one more column holds one of that length
    scale = F.pad(flow, (0, 1))
    scale[0, :, -1] = longest
    return flow_to_image(scale.float())[..., :-1]


def full_color_px(
    flow: Float[Tensor, "2 height width"], visible: Bool[Tensor, "height width"]
) -> float:
    """The length, px, that 98 % of the visible displacements do not exceed.

    Of all pixels where none is visible; the longest displacement where that length is 0.
    """
    length = flow.norm(dim=0)
    seen = length[visible] if visible.any() else length.flatten()
    # NumPy's, since torch.quantile takes 16 million values at most
    usual = float(np.quantile(seen.cpu().numpy(), FULL_COLOR_SHARE))
    return usual if usual > 0 else length.max().item()


def kl_map_figure(
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    query: Float[Tensor, "2"],
    predicted: Float[Tensor, "2"],
    kl_map: Float[Tensor, "rows cols"],
    target: Float[Tensor, "2"] | None = None,
    unit: str = "KL (nats)",
) -> Figure:
    """Frame 0 with the query; frame 1 with truth and prediction; the map over frame 1."""
    figure = _figure(10.5, 3.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    _show(left, frame0, "frame 0: query")
    _mark(left, query, "query", "o")
    _show(middle, frame1, "frame 1: true and predicted")
    _show(right, frame1.mean(0, keepdim=True).expand(3, -1, -1), f"{unit} over frame 1")
    height, width = frame1.shape[-2:]
    heat = right.imshow(
        kl_map.detach().cpu().numpy(),
        extent=(0, width, height, 0),
        cmap="magma",
        alpha=0.75,
        vmin=0,
        interpolation="nearest",
    )
    figure.colorbar(heat, ax=right, label=unit, fraction=0.046)
    for axes in (middle, right):
        if target is not None:
            _mark(axes, target, "true", "o")
        _mark(axes, predicted, "predicted", "x")
    left.legend(loc="upper right", fontsize=7)
    middle.legend(loc="upper right", fontsize=7)
    return figure


def arrows_figure(
    frame0: Float[Tensor, "3 height width"],
    points: Float[Tensor, "points 2"],
    predicted: Float[Tensor, "points 2"],
    target: Float[Tensor, "points 2"] | None = None,
    title: str = "motion from frame 0 to frame 1",
) -> Figure:
    """Arrows from each query to where it went, true below predicted, over frame 0."""
    height, width = frame0.shape[-2:]
    side = 5.0 * max(1.0, (width / height) ** 0.5)  # inches: as much paper for wide frames
    figure = _figure(side, 0.3 + side * height / width)
    axes = figure.subplots()
    _show(axes, frame0, title)
    for name, ends in (("true", target), ("predicted", predicted)):
        if ends is None:
            continue
        x, y = points.detach().cpu().numpy().T
        u, v = (ends - points).detach().cpu().numpy().T
        wide = {"true": 0.012, "predicted": 0.006}[name] * min(1.0, height / width)  # of the width
        arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": wide}
        axes.quiver(x, y, u, v, color=COLORS[name], label=name, **arrows)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def flow_figure(
    frame0: Float[Tensor, "3 height width"],
    flow: Float[Tensor, "2 height width"],
    target: Float[Tensor, "2 height width"] | None = None,
) -> Figure:
    """Frame 0, the flow and, where given, the true flow, both in one scale of colors."""
    fields = {"flow": flow} | ({} if target is None else {"true flow": target})
    longest = max(field.norm(dim=0).max().item() for field in fields.values())
    height, width = flow.shape[-2:]
    figure = _figure(3.4 * (1 + len(fields)), 0.4 + 3.2 * height / width)
    axes = figure.subplots(1, 1 + len(fields))
    _show(axes[0], frame0, "frame 0")
    for place, (name, field) in zip(axes[1:], fields.items(), strict=True):
        _show(
            place, flow_colors(field, longest).float() / 255, f"{name}, full color {longest:.1f} px"
        )
    return figure


def dense_figure(
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    flow: Float[Tensor, "2 height width"],
    visible: Bool[Tensor, "height width"],
    confidence: Float[Tensor, "height width"],
) -> Figure:
    """Two frames, the flow between them (hidden pixels dimmed) and how sure it is."""
    height, width = flow.shape[-2:]
    figure = _figure(6.4, 0.2 + 2 * (0.35 + 3.1 * height / width))
    (first, second), (third, fourth) = figure.subplots(2, 2)
    _show(first, frame0, "frame 0")
    _show(second, frame1, "frame 1")
    full = full_color_px(flow, visible)
    colors = flow_colors(flow, full).float() / 255
    dimmed = torch.where(visible, colors, 0.35 * colors)
    _show(third, dimmed, f"flow, full color from {full:.1f} px; dark: hidden")
    _show(fourth, confidence.expand(3, -1, -1), "confidence, white = 1")
    return figure


def epe_curve_figure(curve: list[dict], lines: dict[str, float]) -> Figure:
    """EPE (px) against step from records ``{"step", "epe", ...}``, with named horizontal lines."""
    figure = _figure(7.0, 4.0)
    axes = figure.subplots()
    steps, errors = [point["step"] for point in curve], [point["epe"] for point in curve]
    axes.plot(steps, errors, marker="o", markersize=3, color="#1f4e9c", label="this run")
    styles = ["--", "-.", ":", (0, (5, 1)), (0, (1, 3))]
    for number, (name, value) in enumerate(lines.items()):
        shade = str(0.15 + 0.12 * (number % 5))
        style = styles[number % len(styles)]
        axes.axhline(value, linestyle=style, color=shade, label=f"{name}: {value:.2f}")
    axes.set(xlabel="training step", ylabel="EPE (px), lower is better")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def probe_figure(history: list[dict]) -> Figure:
    """EPE (px) against step from the records of ``probe.json``, a panel for each probe set.

    Zero motion, DIS and the read-out floor on the same points are drawn as level lines.
    """
    names = list(dict.fromkeys(k.split("/")[1] for h in history for k in h if k.endswith("/epe")))
    figure = _figure(0.6 + 3.6 * max(1, len(names)), 3.4)
    panels = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
    lines = {"zero_epe": ("zero motion", "--"), "dis_epe": ("DIS", "-."), "floor": ("floor", ":")}
    for axes, name in zip(panels, names, strict=False):
        scored = [point for point in history if f"flow/{name}/epe" in point]
        epes = [point[f"flow/{name}/epe"] for point in scored]
        steps = [point["step"] for point in scored]
        axes.plot(steps, epes, marker="o", markersize=3, color="#1f4e9c", label="KL-tracing")
        for key, (label, style) in lines.items():
            level = scored[-1].get(f"flow/{name}/{key}", math.nan)
            axes.axhline(level, linestyle=style, color="0.3", label=f"{label} {level:.2f}")
        axes.set(title=f"{name}: {epes[-1]:.2f} px at the end", xlabel="training step")
        # An untrained model answers anywhere; where it starts is not what the curve is about.
        worst = [scored[-1].get(f"flow/{name}/zero_epe", math.nan), *epes[len(epes) // 2 :], 1e-3]
        axes.set_ylim(0, 1.6 * max(value for value in worst if math.isfinite(value)))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("EPE (px), lower is better")
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file in memory."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure; a file of that name is replaced only once the new one is whole."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(png_bytes(figure))
    os.replace(unfinished, path)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    return figure


def _show(axes: Axes, frame: Float[Tensor, "3 height width"], title: str) -> None:
    height, width = frame.shape[-2:]
    pixels = np.moveaxis(frame.detach().float().clamp(0, 1).cpu().numpy(), 0, -1)
    # raster coordinates: the corner of the first pixel is (0, 0)
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def _mark(axes: Axes, point: Float[Tensor, "2"], name: str, marker: str) -> None:
    x, y = point.detach().cpu().tolist()
    hollow = {"markerfacecolor": "none"} if marker == "o" else {}
    style = {"markersize": 9, "markeredgewidth": 2, "linestyle": "none"} | hollow
    axes.plot(x, y, marker=marker, color=COLORS[name], label=name, clip_on=False, **style)
