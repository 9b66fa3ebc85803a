"""The scores of one video of point tracks, and their mean over videos as TAP-Vid prints it."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracing.metrics import functional

COUNT = "num_points"  # visible frames of all points that EPE, delta_avg and AJ look at


def video_scores(
    pred: Float[Tensor, "points time 2"],
    target: Float[Tensor, "points time 2"],
    pred_visible: Bool[Tensor, "points time"],
    visible: Bool[Tensor, "points time"],
    is_query: Bool[Tensor, "points time"],
) -> dict[str, float]:
    """Scores of one video in query mode "first"; points are (x, y) px with frames at 256x256.

    Evaluated are the frames strictly after a point's query. ``ad`` alone counts the query frame
    too, as published, with whatever ``pred`` says there; frames before the query count nowhere.

    Returns:
        ``ad``, ``epe`` and ``median`` in px, ``delta_avg`` and ``delta_1`` ... ``delta_16`` (share
        of visible frames strictly within so many px), ``oa``, ``aj``, and ``num_points``, the
        visible evaluated frames of all points. NaN where there is nothing to score.

    Raises:
        ValueError: a point does not have exactly one query frame.

    Source:
        Doersch et al. 2022, TAP-Vid; AD: Stojanov et al. 2025, Opt-CWM.
    """
    if not (is_query.sum(1) == 1).all():
        raise ValueError(
            f"is_query marks {is_query.sum(1).unique().tolist()} frames of a point; mark exactly "
            "one, the frame it is queried in."
        )
    evaluated = is_query.cumsum(1).bool() & ~is_query
    seen = visible & evaluated
    errors = functional.distances(pred, target)[seen]
    deltas = functional.delta_per_threshold(pred, target, seen)
    named = zip(functional.THRESHOLDS_PX, deltas.tolist(), strict=True)
    scores = {
        "ad": functional.average_distance(pred, target, seen | (visible & is_query)).item(),
        "epe": functional.endpoint_error(pred, target, seen).item(),
        "median": errors.quantile(0.5).item() if len(errors) else float("nan"),
        "delta_avg": deltas.mean().item(),
        "oa": functional.occlusion_accuracy(pred_visible, visible, evaluated).item(),
        "aj": functional.average_jaccard(pred, target, pred_visible, visible, evaluated).item(),
        COUNT: float(seen.sum()),
    }
    return scores | {f"delta_{threshold:.0f}": delta for threshold, delta in named}


def mean_over_videos(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Unweighted mean of each score over the videos that have a visible evaluated point.

    A video without one is left out of every score, ``oa`` too. A NaN in a video that has one was
    predicted, and stays. ``num_points`` is the sum.

    Returns:
        The keys of ``video_scores``, ``num_videos`` (all that were given) and ``num_unscorable``
        (those left out); every mean is NaN if all were.
    """
    scorable = [video for video in scores if video[COUNT]]
    keys = list(scores[0]) if scores else []
    table = torch.tensor([[video[key] for key in keys] for video in scorable], dtype=torch.float64)
    means = table.mean(0).tolist() if scorable else [float("nan")] * len(keys)
    return dict(zip(keys, means, strict=True)) | {
        COUNT: float(sum(video[COUNT] for video in scores)),
        "num_videos": float(len(scores)),
        "num_unscorable": float(len(scores) - len(scorable)),
    }
