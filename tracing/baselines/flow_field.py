"""Tracers that know the flow of every pixel: a point moves by the field where it is."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from data.coords import sample_at
from tracing.baselines.zero_motion import all_visible
from tracing.config import Traces


class FlowField(ABC):
    """What optical flows have in common; they fill in ``name`` and ``dense_flow``.

    The field is read at the points, bilinearly; at pixel centers that is the field itself.
    """

    name: str
    needs_model = False
    any_size = True  # takes frames as stored

    @abstractmethod
    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 height width"]:
        """(u, v) in px at every pixel center of frame 0."""

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        flow = self.dense_flow(frame0, frame1)
        return all_visible(points + sample_at(flow, points).to(points))
