"""Points followed through a video, two frames at a time: the first one and each later one."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracing.asking import (
    Answers,
    Asking,
    AskTracer,
    ask_in_blocks,
    confidence_of,
    threshold_px,
)


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Where the queries of the first frame are in every frame; the first holds the queries."""

    points: Float[Tensor, "points time 2"]  # px
    visible: Bool[Tensor, "points time"]
    peak_kl: Float[Tensor, "points time"] | None  # nats; 0 in the first frame, never asked for
    return_px: Float[Tensor, "points time"] | None  # px; see ForwardBackward; 0 there too
    seconds: float  # wall time inside the tracer

    @property
    def points_per_second(self) -> float:
        """Positions found in a second, those of the first frame not counted."""
        num_points, num_frames = self.visible.shape
        return num_points * (num_frames - 1) / max(self.seconds, 1e-9)


def track_points(
    tracer: AskTracer,
    frames: Iterable[Float[Tensor, "3 height width"]],
    queries: Float[Tensor, "points 2"],
    *,
    return_px: float | None = None,
    how: Asking | None = None,
) -> Tracks:
    """Every query of the first frame in every later one, by any tracer of batches of points.

    Frames are taken one by one and only the first is held. Frame t
    is traced with ``how.seed + t``. ``return_px`` is as in ``confidence_of``; None: 4 px.

    Raises:
        ValueError: fewer than two frames, no query, or as ``check_question``.
    """
    how, frames = how or Asking(), iter(frames)
    first = next(frames, None)
    at_most_px = threshold_px(tracer, return_px, 4.0)
    collected: list[Answers] = []
    visible: list[Tensor] = []
    for t, frame in enumerate(frames, start=1):
        of_frame = replace(how, seed=how.seed + t)
        own = ask_in_blocks(tracer, first, frame, queries.to(first), f"frame-{t:06d}", of_frame)
        collected.append(own)
        visible.append(confidence_of(own, (frame.shape[-2], frame.shape[-1]), at_most_px) >= 0.5)
    if not collected:
        raise ValueError(
            f"got {0 if first is None else 1} frame(s), and tracks need two; pass a longer video."
        )

    def over_time(name: str) -> Tensor | None:
        values = [getattr(answers, name) for answers in collected]
        if values[0] is None:
            return None
        return torch.stack([torch.zeros_like(values[0]), *values], dim=1)

    positions = [queries.to(collected[0].xy), *(answers.xy for answers in collected)]
    return Tracks(
        points=torch.stack(positions, dim=1),
        visible=torch.stack([torch.ones_like(visible[0]), *visible], dim=1),
        peak_kl=over_time("peak_kl"),
        return_px=over_time("return_px"),
        seconds=sum(answers.seconds for answers in collected),
    )


def query_grid(frame_hw: tuple[int, int], step_px: float) -> Float[Tensor, "points 2"]:
    """Points ``step_px`` apart along both axes, amid the frame, row by row."""
    if not step_px > 0:
        raise ValueError(f"got a grid of {step_px} px; use a positive step, such as 16.")
    y, x = (
        (torch.arange(n) - (n - 1) / 2) * step_px + side / 2
        for side, n in ((side, max(1, int(side // step_px))) for side in frame_hw)
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1).float()
