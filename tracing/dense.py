"""Flow at every pixel: one query for each patch of a model's grid, interpolated in between."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from data.coords import pixel_centers
from tracing.asking import Asking, AskTracer, ask_in_blocks, confidence_of, threshold_px
from tracing.inputs import inside_frame


@dataclass(frozen=True, kw_only=True)
class DenseFlow:
    """Displacements in px of the frames as given, at every pixel and at the queries themselves."""

    flow: Float[Tensor, "2 height width"]  # (u, v) at pixel centers, bilinear between the queries
    confidence: Float[Tensor, "height width"]  # ``confidence_of``, bilinear; 0 where flow leaves
    visible: Bool[Tensor, "height width"]  # confidence >= 0.5
    points: Float[Tensor, "rows cols 2"]  # the queries, px in frame 0
    grid_flow: Float[Tensor, "2 rows cols"]
    grid_confidence: Float[Tensor, "rows cols"]
    peak_kl: Float[Tensor, "rows cols"] | None  # nats; None: the tracer has none
    return_px: Float[Tensor, "rows cols"] | None  # px; see ForwardBackward
    threshold_px: float  # of return_px, where a query counts as visible
    seconds: float  # wall time inside the tracer, the way back included

    @property
    def points_per_second(self) -> float:
        """Queries answered in a second, there and, if asked for, back."""
        return self.points[..., 0].numel() / max(self.seconds, 1e-9)


def dense_flow(
    tracer: AskTracer,
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    grid_hw: tuple[int, int],
    *,
    stride: int = 1,
    return_px: float | None = None,
    how: Asking | None = None,
) -> DenseFlow:
    """The displacement of every pixel from frame 0 to frame 1, by any tracer of batches of points.

    Args:
        grid_hw: rows and columns of patches that the frames are divided into; for a model that is
            shown frames of h x w px, h / patch_px and w / patch_px.
        stride: ask for every so-many-th patch of the grid, along both axes.
        return_px: see ``confidence_of``; None: the longer side of a patch.
        how: by default points are traced there and back, with seed 0.

    Example, with an exact model of a scene that slides two 8-px patches to the right:

    >>> from tracing.asking import Asking
    >>> from tracing.dense import dense_flow
    >>> from tracing.kl_tracer import KLTracer
    >>> from tracing.oracle import ShiftOracle
    >>> model = ShiftOracle(shift_cells=(4, 0), patch_px=8, code_px=4)
    >>> frame0, frame1 = model.frames(64, 64, seed=0)
    >>> field = dense_flow(KLTracer(model), frame0, frame1, (8, 8), how=Asking(back=False))
    >>> field.flow[:, 30, 20]
    tensor([16.,  0.])

    Raises:
        ValueError: as ``check_question``, or no query to ask for.
    """
    height, width = frame0.shape[-2:]
    points = query_lattice((height, width), grid_hw, stride)
    queries = rearrange(points, "r c xy -> (r c) xy")
    how = how or Asking(back=True)
    patch_px = max(height / grid_hw[0], width / grid_hw[1])
    at_most_px = threshold_px(tracer, return_px, patch_px)
    answers = ask_in_blocks(tracer, frame0, frame1, queries.to(frame0), "points", how)
    sure = confidence_of(answers, (height, width), at_most_px)

    def on_grid(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.unflatten(0, points.shape[:2])

    grid_flow = rearrange(on_grid(answers.xy.to(queries) - queries), "r c xy -> xy r c")
    flow = spread(grid_flow, points, height, width)
    target = pixel_centers(height, width) + rearrange(flow, "xy h w -> h w xy")
    confidence = spread(on_grid(sure)[None], points, height, width, beyond=False)[0]
    confidence = torch.where(inside_frame(target, (height, width)), confidence, 0.0)
    return DenseFlow(
        flow=flow,
        confidence=confidence,
        visible=confidence >= 0.5,
        points=points,
        grid_flow=grid_flow,
        grid_confidence=on_grid(sure),
        peak_kl=on_grid(answers.peak_kl),
        return_px=on_grid(answers.return_px),
        threshold_px=at_most_px,
        seconds=answers.seconds,
    )


def query_lattice(
    frame_hw: tuple[int, int], grid_hw: tuple[int, int], stride: int = 1
) -> Float[Tensor, "rows cols 2"]:
    """Centers of every ``stride``-th patch of a grid laid over the frame, (x, y) px.

    What is left over along an axis is shared between its two borders.

    Raises:
        ValueError: a grid without patches, or a stride under 1.
    """
    if stride < 1 or min(grid_hw) < 1:
        raise ValueError(
            f"got stride={stride} on a grid of {grid_hw[0]}x{grid_hw[1]} patches; both must be at "
            "least 1."
        )
    y, x = (
        (torch.arange((n - 1) % stride // 2, n, stride, dtype=torch.float64) + 0.5) * side / n
        for side, n in zip(frame_hw, grid_hw, strict=True)
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).float()


def spread(
    values: Float[Tensor, "channels rows cols"],
    points: Float[Tensor, "rows cols 2"],
    height: int,
    width: int,
    beyond: bool = True,
) -> Float[Tensor, "channels height width"]:
    """Values at evenly spaced points -> values at every pixel center, bilinear.

    Outside the outermost points the last two go on as a straight line, so that affine fields come
    out exact up to the border; with ``beyond=False`` the outermost value holds instead, so that
    nothing leaves the range of the values.
    """
    down = _weights(points[:, 0, 1], height, beyond)
    across = _weights(points[0, :, 0], width, beyond)
    exact = torch.einsum("yr,crk,xk->cyx", down, values.double(), across)
    return exact.to(values.dtype)


def _weights(at: Float[Tensor, " knots"], size: int, beyond: bool) -> Float[Tensor, "{size} knots"]:
    """How much each knot counts at each pixel center along one axis; every row sums to 1."""
    weights = torch.zeros(size, len(at), dtype=torch.float64)
    if len(at) == 1:
        return weights + 1
    pixels = torch.arange(size, dtype=torch.float64) + 0.5
    knots = at.double()
    along = (pixels - knots[0]) * (len(at) - 1) / (knots[-1] - knots[0])
    left = along.floor().long().clamp(0, len(at) - 2)
    share = along - left
    if not beyond:
        share = share.clamp(0, 1)
    row = torch.arange(size)
    weights[row, left], weights[row, left + 1] = 1 - share, share
    return weights
