"""A tracer that knows the answers: what a perfect method must score, through any task."""

from collections.abc import Sequence

import torch

from data.coords import pixel_centers
from data.types import PointPairs
from tracing.config import Traces


class ExactOracle:
    """Answers from ground truth: the targets of a part, or its true flow at every pixel center.

    Part i must be asked for with ``seed + i``. Where the flow is not known, the answer is a mile
    off: an exact score shows that such pixels do not count.
    """

    name = "oracle"
    needs_model = False
    any_size = True

    def __init__(self, parts: Sequence[PointPairs], seed: int) -> None:
        self.parts, self.seed = parts, seed
        self.asked_points = self.asked_pixels = 0

    def __call__(self, frame0, frame1, points, seed=0):
        part = self.parts[seed - self.seed]
        if points.shape == part.points.shape and torch.equal(points, part.points):
            self.asked_points += 1
            return Traces(xy=part.target.clone(), visible=part.visible.clone())
        self.asked_pixels += 1
        centers = pixel_centers(*part.truth.valid.shape).flatten(0, 1)
        assert torch.equal(points[0], centers), "neither the points of the part nor all pixels"
        flow = torch.where(part.truth.valid, part.truth.flow, 1e4)
        moved = flow.flatten(1).mT[None]
        return Traces(xy=points + moved, visible=torch.ones_like(moved[..., 0], dtype=torch.bool))

    def dense_flow(self, frame0, frame1):
        raise NotImplementedError("asked for as points, so that answers can be kept")
