"""Zero motion: every point stays where it is. The yardstick of every table."""

import torch
from jaxtyping import Float
from torch import Tensor

from tracing.config import Traces


def all_visible(xy: Float[Tensor, "batch points 2"]) -> Traces:
    """The answer of a tracer that says where points are and nothing of occlusion."""
    return Traces(xy=xy, visible=torch.ones_like(xy[..., 0], dtype=torch.bool))


class ZeroMotion:
    """Answers with the query itself. Needs nothing: neither frames, nor a model, nor a seed."""

    name = "zero_motion"
    needs_model = False
    any_size = True

    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 height width"]:
        """Zero at every pixel."""
        return torch.zeros_like(frame0[:, :2])

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        return all_visible(points.clone())
