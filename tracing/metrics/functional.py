"""Metrics of flow and point tracks as pure functions. Every sum is taken in float64.

Each metric is a ratio of two sums: ``_*_sums`` returns them, the public function divides. Tracks
hold one video; a benchmark is the unweighted mean over its videos (``classes`` accumulates that).
A ratio of nothing to nothing is NaN.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from data.coords import rescale_points
from data.types import PointPairs

THRESHOLDS_PX = (1.0, 2.0, 4.0, 8.0, 16.0)  # at 256x256
BENCHMARK_HW = (256, 256)  # the frame in which these thresholds are pixels
QueryMode = Literal["first", "strided", "cfg"]
CFG_GAP = 5  # frames from query to target in query mode cfg
Sums = tuple[Float64[Tensor, ""], Float64[Tensor, ""]]


def distances(pred: Float[Tensor, "*n 2"], target: Float[Tensor, "*n 2"]) -> Float64[Tensor, "*n"]:
    """Euclidean distance of each prediction from its target, in the pixels of the inputs."""
    return (pred.double() - target.double()).norm(dim=-1)


def _endpoint_error_sums(
    pred: Float[Tensor, "*n 2"], target: Float[Tensor, "*n 2"], valid: Bool[Tensor, "*n"]
) -> Sums:
    return distances(pred, target)[valid].sum(), valid.sum().double()


def endpoint_error(
    pred: Float[Tensor, "*n 2"], target: Float[Tensor, "*n 2"], valid: Bool[Tensor, "*n"]
) -> Float64[Tensor, ""]:
    """EPE: mean distance over valid entries, in pixels."""
    total, count = _endpoint_error_sums(pred, target, valid)
    return total / count


def average_distance(
    pred: Float[Tensor, "points time 2"],
    target: Float[Tensor, "points time 2"],
    visible: Bool[Tensor, "points time"],
) -> Float64[Tensor, ""]:
    """AD as published: mean distance over every visible frame, THE QUERY FRAME INCLUDED.

    Predicted visibility plays no part. A perfect answer on the query frame, which every tracker
    has, lowers it; ``endpoint_error`` over ``evaluated_frames`` leaves that frame out.

    Source:
        Stojanov et al. 2025, Opt-CWM; ZWM's grader computes the same.
    """
    return endpoint_error(pred, target, visible)


def evaluated_frames(
    query_frame: Int[Tensor, " points"], num_frames: int, mode: QueryMode
) -> Bool[Tensor, "points time"]:
    """Frames that count: after the query's (``first``), all but it (``strided``), 5 on (``cfg``).

    Source:
        Doersch et al. 2022, TAP-Vid; cfg: Stojanov et al. 2025, Opt-CWM.
    """
    gap = torch.arange(num_frames, device=query_frame.device) - query_frame[:, None]
    known = {"first": gap > 0, "strided": gap != 0, "cfg": gap == CFG_GAP}
    if mode not in known:
        raise ValueError(f"query mode is {mode!r}; use one of {', '.join(known)}.")
    return known[mode]


def _delta_sums(
    pred: Float[Tensor, "*n 2"], target: Float[Tensor, "*n 2"], visible: Bool[Tensor, "*n"]
) -> tuple[Float64[Tensor, " thresholds"], Float64[Tensor, ""]]:
    return _closer_counts(distances(pred, target)[visible]), visible.sum().double()


def _closer_counts(distance: Float64[Tensor, " n"]) -> Float64[Tensor, " thresholds"]:
    """How many are strictly closer than each threshold; NaN is never closer."""
    return (distance < distance.new_tensor(THRESHOLDS_PX)[:, None]).sum(1).double()


def delta_per_threshold(
    pred: Float[Tensor, "*n 2"], target: Float[Tensor, "*n 2"], visible: Bool[Tensor, "*n"]
) -> Float64[Tensor, " thresholds"]:
    """Share of visible points strictly closer than each of 1, 2, 4, 8, 16 px.

    Points must be in 256x256 pixels. Predicted visibility plays no part.
    """
    within, count = _delta_sums(pred, target, visible)
    return within / count


def delta_avg(
    pred: Float[Tensor, "*n 2"], target: Float[Tensor, "*n 2"], visible: Bool[Tensor, "*n"]
) -> Float64[Tensor, ""]:
    """Mean of ``delta_per_threshold``, a fraction."""
    return delta_per_threshold(pred, target, visible).mean()


def occlusion_accuracy(
    pred_visible: Bool[Tensor, "*n"], visible: Bool[Tensor, "*n"], evaluated: Bool[Tensor, "*n"]
) -> Float64[Tensor, ""]:
    """OA: share of evaluated frames whose visibility was predicted right."""
    right = (pred_visible == visible) & evaluated
    return right.sum().double() / evaluated.sum().double()


def jaccard_per_threshold(
    pred: Float[Tensor, "*n 2"],
    target: Float[Tensor, "*n 2"],
    pred_visible: Bool[Tensor, "*n"],
    visible: Bool[Tensor, "*n"],
    evaluated: Bool[Tensor, "*n"],
) -> Float64[Tensor, " thresholds"]:
    """True positives / (visible + false positives) for each threshold, in 256x256 pixels.

    A false positive is called visible but is hidden, or visible but too far off: a visible point
    called visible in a wrong place is counted twice in the denominator.
    """
    seen, called = visible & evaluated, pred_visible & evaluated
    true_positive = _closer_counts(distances(pred, target)[seen & called])
    return true_positive / (seen.sum() + called.sum() - true_positive)


def average_jaccard(
    pred: Float[Tensor, "*n 2"],
    target: Float[Tensor, "*n 2"],
    pred_visible: Bool[Tensor, "*n"],
    visible: Bool[Tensor, "*n"],
    evaluated: Bool[Tensor, "*n"],
) -> Float64[Tensor, ""]:
    """AJ: mean of ``jaccard_per_threshold``, a fraction."""
    return jaccard_per_threshold(pred, target, pred_visible, visible, evaluated).mean()


def occlusion_f1(true_positive: float, false_positive: float, false_negative: float) -> float:
    """OF1: harmonic mean of precision and recall of "occluded"; NaN if nothing is or is called so.

    As published the counts are summed over all videos, unlike every other score of tracks.

    Source:
        Stojanov et al. 2025, Opt-CWM.
    """
    whole = 2 * true_positive + false_positive + false_negative
    return 2 * true_positive / whole if whole else float("nan")


def median(values: Float[Tensor, " n"] | Float[np.ndarray, " n"]) -> float:
    """The middle value, or the mean of the two in the middle; NaN of nothing. Of any length."""
    if not len(values):
        return float("nan")
    return float(np.median(values.cpu().numpy() if isinstance(values, Tensor) else values))


def _hit_sums(
    pred: Float[Tensor, "*n 2"],
    target: Float[Tensor, "*n 2"],
    valid: Bool[Tensor, "*n"],
    patch_px: int,
) -> Sums:
    off = (pred.double() - target.double()).abs().amax(dim=-1)
    return (off[valid] <= patch_px / 2).sum().double(), valid.sum().double()


def hit_share(
    pred: Float[Tensor, "*n 2"],
    target: Float[Tensor, "*n 2"],
    valid: Bool[Tensor, "*n"],
    patch_px: int,
) -> Float64[Tensor, ""]:
    """Share of valid points whose target lies in the patch-sized square round the prediction.

    The square is ``patch_px`` wide and centered on the prediction, its border included, so the
    answer of a perfect arg-max over patches is a hit wherever the target is in its patch.
    """
    hits, count = _hit_sums(pred, target, valid, patch_px)
    return hits / count


def scored_points(pairs: PointPairs) -> Bool[Tensor, "pairs points"]:
    """Points that count in two-frame scores: real queries whose target is in view."""
    return pairs.visible & pairs.valid


def two_frame_scores(
    pred: Float[Tensor, "pairs points 2"], pairs: PointPairs, patch_px: int
) -> dict[str, float]:
    """Scores of two-frame answers over the points of ``scored_points``, pooled over the pairs.

    Returns:
        ``epe`` and ``median`` in pixels of the frames, ``delta_avg`` with both axes stretched to
        256x256, ``hit`` within ``patch_px`` of the frames, ``num_points``.
    """
    scored = scored_points(pairs)
    error = distances(pred, pairs.target)[scored]
    frame_hw = (pairs.frame0.shape[-2], pairs.frame0.shape[-1])
    pred_256, target_256 = (rescale_points(p, frame_hw, BENCHMARK_HW) for p in (pred, pairs.target))
    return {
        "epe": endpoint_error(pred, pairs.target, scored).item(),
        "median": median(error),
        "delta_avg": delta_avg(pred_256, target_256, scored).item(),
        "hit": hit_share(pred, pairs.target, scored, patch_px).item(),
        "num_points": len(error),
    }
