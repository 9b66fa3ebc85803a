"""Tracers that are shown frames of another size than stored, and who is shown which."""

from copy import copy
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from data.coords import rescale_points
from data.types import PointPairs
from tracing.benchmarks.base import Tracer
from tracing.config import Traces
from tracing.crops import resize


def resized_pairs(pairs: PointPairs, hw: tuple[int, int]) -> PointPairs:
    """The same queries on frames stretched to ``hw``."""
    from_hw = (pairs.frame0.shape[-2], pairs.frame0.shape[-1])
    return PointPairs(
        frame0=resize(pairs.frame0, hw),
        frame1=resize(pairs.frame1, hw),
        points=rescale_points(pairs.points, from_hw, hw),
        target=rescale_points(pairs.target, from_hw, hw),
        visible=pairs.visible,
        valid=pairs.valid,
        name=pairs.name,
    )


class Resized:
    """A tracer that is shown frames stretched to ``hw`` and answers in pixels of the originals.

    ``never_hidden`` counts patches of the resized frames, whose size ``input_hw`` says.
    """

    def __init__(self, tracer: Tracer, hw: tuple[int, int]) -> None:
        self.tracer, self.hw, self.needs_model = tracer, hw, tracer.needs_model
        self.input_hw = hw
        self.name = f"{tracer.name}@{hw[0]}x{hw[1]}"

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        native = (frame0.shape[-2], frame0.shape[-1])
        inside = rescale_points(points, native, self.hw)
        traces = self.tracer(resize(frame0, self.hw), resize(frame1, self.hw), inside, seed=seed)
        return replace(traces, xy=rescale_points(traces.xy, self.hw, native))


def at_sizes(tracer: Tracer, input_hw: tuple[int, int] | None) -> list[Tracer]:
    """Zero motion as it is, a tracer of any size at both, others at the input size (None: not).

    A tracer that takes native frames is told the input size; others are shown resized frames.
    """
    if tracer.name == "zero_motion":
        return [tracer]
    if getattr(tracer, "takes_native", False):
        return [tracer.at(input_hw)] if input_hw else []
    resized: list[Tracer] = [Resized(tracer, input_hw)] if input_hw else []
    if not getattr(tracer, "any_size", False):
        return resized
    if getattr(tracer, "enlarge", 1) > 1:  # frames as stored are large enough
        return []
    native = copy(tracer)
    native.name = f"{tracer.name}@native"
    return [native, *resized]
