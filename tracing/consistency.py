"""Forward-backward consistency: is an answer traced back to the query that it is the answer of?"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracing.config import Traces
from tracing.inputs import inside_frame
from tracing.occlusion import Occlusion, came_back, check_occlusion

SALT = 2**36  # the masks of the way back are not those of the way there


class ForwardBackward:
    """A tracer that also traces its answers back, from frame 1 to frame 0, for their visibility.

    ``Traces.return_px`` is the distance between a query and where its answer came back to, in px
    of the frames as given here; infinite for an answer outside frame 1 (or that is no number),
    which is not traced back. Everything else, positions included, is of the way there.

    Args:
        tracer: any tracer; its own ``visible`` is what the rule ``peak_kl`` goes by.
        rule: ``forward_backward``: visible = came back to within ``return_px``; ``both``: the
            tracer must say so, too; ``peak_kl``: the tracer alone, distances are only told.
        return_px: the threshold, px.
    """

    def __init__(
        self,
        tracer: Callable[..., Traces],
        rule: Occlusion = "forward_backward",
        return_px: float = 4.0,
    ) -> None:
        check_occlusion(rule)
        if not return_px >= 0:
            raise ValueError(
                f"return_px={return_px} calls no point visible; pass a distance in px such as 4."
            )
        self.tracer, self.rule, self.return_px = tracer, rule, return_px
        self.name, self.needs_model = tracer.name, tracer.needs_model
        for about in ("input_hw", "takes_native"):
            if hasattr(tracer, about):
                setattr(self, about, getattr(tracer, about))

    @torch.no_grad()
    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        there = self.tracer(frame0, frame1, points, seed=seed)
        inside = inside_frame(there.xy, (frame0.shape[-2], frame0.shape[-1]))
        back = self._way_back(frame0, frame1, there.xy, inside, seed)
        distance = (back.double() - points.double()).norm(dim=-1).to(points)
        distance = torch.where(inside & ~distance.isnan(), distance, math.inf)
        visible = came_back(distance, self.return_px)
        if self.rule == "peak_kl":
            visible = there.visible
        elif self.rule == "both":
            visible = visible & there.visible
        return replace(there, visible=visible, return_px=distance)

    def _way_back(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        landed: Float[Tensor, "batch points 2"],
        inside: Bool[Tensor, "batch points"],
        seed: int,
    ) -> Float[Tensor, "batch points 2"]:
        """Where the answers inside frame 1 come from in frame 0; the others stay as they are.

        A batch is rectangular: every pair asks for as many points as the one with most inside.
        """
        if not inside.any():
            return landed
        chosen = (~inside).long().argsort(dim=1, stable=True)[:, : int(inside.sum(1).max())]
        asks = inside.gather(1, chosen)[..., None]
        chosen = chosen[..., None].expand(-1, -1, 2)
        amid = landed.new_tensor([frame0.shape[-1] / 2, frame0.shape[-2] / 2])
        asked = torch.where(asks, landed.gather(1, chosen), amid)
        back = self.tracer(frame1, frame0, asked, seed=seed + SALT).xy
        return landed.scatter(1, chosen, back)
