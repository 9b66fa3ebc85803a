"""Metrics as torchmetrics classes: they only accumulate what ``functional`` computes.

Pooled over points: EndPointError, PointDeltaAvg, HitShare. One video an update and the mean over
videos, as TAP-Vid prints them: AverageDistance, DeltaAvg, OcclusionAccuracy, AverageJaccard; these
four take the same arguments and go together in a ``torchmetrics.MetricCollection``.
"""

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from tracing.metrics import functional


class _Ratio(Metric):
    """Two float64 sums and their quotient; NaN while the count is 0."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("total", zero, dist_reduce_fx="sum")
        self.add_state("count", zero.clone(), dist_reduce_fx="sum")

    def _add(self, total: Tensor, count: Tensor) -> None:
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


class EndPointError(_Ratio):
    """EPE over all valid points ever given, in pixels; see ``functional.endpoint_error``."""

    higher_is_better = False

    def update(
        self,
        pred: Float[Tensor, "*n 2"],
        target: Float[Tensor, "*n 2"],
        valid: Bool[Tensor, "*n"],
    ) -> None:
        self._add(*functional._endpoint_error_sums(pred, target, valid))


class PointDeltaAvg(_Ratio):
    """delta_avg over all visible points ever given (256x256 px); see ``functional.delta_avg``."""

    higher_is_better = True

    def update(
        self,
        pred: Float[Tensor, "*n 2"],
        target: Float[Tensor, "*n 2"],
        visible: Bool[Tensor, "*n"],
    ) -> None:
        within, count = functional._delta_sums(pred, target, visible)
        self._add(within.mean(), count)


class HitShare(_Ratio):
    """Share of points hit within a patch of ``patch_px``; see ``functional.hit_share``."""

    higher_is_better = True

    def __init__(self, patch_px: int) -> None:
        super().__init__()
        self.patch_px = patch_px

    def update(
        self,
        pred: Float[Tensor, "*n 2"],
        target: Float[Tensor, "*n 2"],
        valid: Bool[Tensor, "*n"],
    ) -> None:
        self._add(*functional._hit_sums(pred, target, valid, self.patch_px))


class _VideoMean(_Ratio):
    """Unweighted mean over videos of one score a video; ``update`` takes ONE video.

    A video whose score is undefined (nothing visible in the frames that count) is left out;
    ``count`` is the number of videos that entered.
    """

    def __init__(self, mode: functional.QueryMode = "first") -> None:
        super().__init__()
        self.mode = mode

    def update(
        self,
        query_frame: Int[Tensor, " points"],
        target: Float[Tensor, "points time 2"],
        visible: Bool[Tensor, "points time"],
        pred: Float[Tensor, "points time 2"],
        pred_visible: Bool[Tensor, "points time"],
    ) -> None:
        evaluated = functional.evaluated_frames(query_frame, visible.shape[1], self.mode)
        score = self._score(pred, target, pred_visible, visible, evaluated)
        # Undefined even for a perfect answer: nothing to score. A NaN that was predicted stays.
        nowhere = torch.zeros_like(target)
        perfect = self._score(nowhere, nowhere, pred_visible, visible, evaluated)
        self._add(
            score if perfect.isfinite() else perfect.new_zeros(()), perfect.isfinite().double()
        )

    @abstractmethod
    def _score(
        self, pred: Tensor, target: Tensor, pred_visible: Tensor, visible: Tensor, evaluated: Tensor
    ) -> Tensor: ...


class AverageDistance(_VideoMean):
    """AD in pixels, query frame included as published; see ``functional.average_distance``."""

    higher_is_better = False

    def _score(self, pred, target, pred_visible, visible, evaluated) -> Tensor:
        return functional.average_distance(pred, target, visible)


class DeltaAvg(_VideoMean):
    """delta_avg over visible evaluated points of a 256x256 video."""

    higher_is_better = True

    def _score(self, pred, target, pred_visible, visible, evaluated) -> Tensor:
        return functional.delta_avg(pred, target, visible & evaluated)


class OcclusionAccuracy(_VideoMean):
    """OA over evaluated frames."""

    higher_is_better = True

    def _score(self, pred, target, pred_visible, visible, evaluated) -> Tensor:
        return functional.occlusion_accuracy(pred_visible, visible, evaluated)


class AverageJaccard(_VideoMean):
    """AJ over evaluated frames of a 256x256 video."""

    higher_is_better = True

    def _score(self, pred, target, pred_visible, visible, evaluated) -> Tensor:
        return functional.average_jaccard(pred, target, pred_visible, visible, evaluated)
