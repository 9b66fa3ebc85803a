"""The scores of one video of point tracks, and their mean over videos as TAP-Vid prints it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from tracing.metrics import functional

COUNT = "num_points"  # visible targets that EPE, delta_avg and AJ look at
OCCLUSION_COUNTS = ("occ_tp", "occ_fp", "occ_fn")  # of "occluded"; OF1 is made of their sums
_DELTAS = tuple(f"delta_{px:.0f}" for px in functional.THRESHOLDS_PX)
_JACCARDS = tuple(f"jaccard_{px:.0f}" for px in functional.THRESHOLDS_PX)


def item_scores(
    errors: Float64[Tensor, " items"],
    pred_visible: Bool[Tensor, " items"],
    visible: Bool[Tensor, " items"],
    query_errors: Float64[Tensor, " queries"],
) -> dict[str, float]:
    """Scores of one video from distances in px at 256x256.

    Args:
        errors: of every evaluated target; those of hidden ones are not looked at.
        query_errors: in the query frames, which count in ``ad`` and ``ad_median`` alone.

    Returns:
        ``ad``, ``ad_median``, ``epe`` and ``median`` in px; ``delta_avg`` and ``delta_1`` ...
        ``delta_16`` (share of visible targets strictly within so many px); ``oa``, ``of1``; ``aj``
        and ``jaccard_1`` ... ``jaccard_16``; ``num_points``, the visible targets; ``occ_tp``,
        ``occ_fp``, ``occ_fn``. NaN where there is nothing to score.

    Source:
        Doersch et al. 2022, TAP-Vid; AD and OF1: Stojanov et al. 2025, Opt-CWM.
    """
    # numpy from here on: on so few numbers most of the time would be torch's overhead.
    of_items = (each.cpu().numpy() for each in (errors, pred_visible, visible, query_errors))
    return _scores_of_arrays(*of_items)


def _scores_of_arrays(
    errors: np.ndarray, pred_visible: np.ndarray, visible: np.ndarray, query_errors: np.ndarray
) -> dict[str, float]:
    seen = errors[visible]
    with_query = np.concatenate([seen, query_errors])
    counts = _counted(errors, pred_visible, visible)
    closer, (hidden, called) = counts.cumsum(0)[:-1], counts.sum(0)
    occluded = float(hidden[0]), float(hidden[1]), float(called[0])  # rightly, wrongly, missed
    with np.errstate(invalid="ignore"):  # nothing of nothing is NaN
        deltas = closer[:, :, 1].sum(1) / np.float64(len(seen))
        jaccards = closer[:, 1, 1] / (len(seen) + called.sum() - closer[:, 1, 1])
        oa = (hidden[0] + called[1]) / counts.sum()
    scores = {
        "ad": _mean(with_query),
        "ad_median": functional.median(with_query),
        "epe": _mean(seen),
        "median": functional.median(seen),
        "delta_avg": deltas.mean(),
        "oa": oa,
        "of1": functional.occlusion_f1(*occluded),
        "aj": jaccards.mean(),
        COUNT: len(seen),
    }
    scores |= dict(zip(OCCLUSION_COUNTS, occluded, strict=True))
    scores |= dict(zip(_DELTAS, deltas, strict=True)) | dict(zip(_JACCARDS, jaccards, strict=True))
    return {name: float(value) for name, value in scores.items()}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _counted(errors: np.ndarray, pred_visible: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """How many items there are of each kind: [thresholds not beaten, called visible, visible].

    One pass over the items. NaN beats no threshold.
    """
    kinds = len(functional.THRESHOLDS_PX) + 1
    unbeaten = np.full(len(errors), kinds - 1)
    for threshold in functional.THRESHOLDS_PX:
        unbeaten -= errors < threshold
    kind = 4 * unbeaten + 2 * pred_visible + visible
    return np.bincount(kind, minlength=4 * kinds).reshape(kinds, 2, 2).astype(np.float64)


def video_scores(
    pred: Float[Tensor, "points time 2"],
    target: Float[Tensor, "points time 2"],
    pred_visible: Bool[Tensor, "points time"],
    visible: Bool[Tensor, "points time"],
    is_query: Bool[Tensor, "points time"],
    mode: functional.QueryMode = "first",
) -> dict[str, float]:
    """``item_scores`` of whole tracks in a query mode; points are (x, y) px at 256x256.

    ``ad`` counts the query frame too, as published, with whatever ``pred`` says there; frames
    that are neither evaluated nor a query's count nowhere.

    Raises:
        ValueError: predictions and tracks differ in length, or a point does not have exactly one
            query frame.
    """
    if pred.shape != target.shape or pred_visible.shape != visible.shape:
        raise ValueError(
            f"predictions are {tuple(pred.shape)} and {tuple(pred_visible.shape)}, the tracks "
            f"{tuple(target.shape)} and {tuple(visible.shape)}; predict every point in every frame."
        )
    if not (is_query.sum(1) == 1).all():
        raise ValueError(
            f"is_query marks {is_query.sum(1).unique().tolist()} frames of a point; mark exactly "
            "one, the frame it is queried in."
        )
    query_frame = is_query.int().argmax(1)
    evaluated = functional.evaluated_frames(query_frame, visible.shape[1], mode)
    errors = functional.distances(pred, target).flatten()
    items = evaluated.flatten().nonzero()[:, 0]  # once: faster than a mask for each
    of_items = (each.flatten()[items] for each in (errors, pred_visible, visible))
    return item_scores(*of_items, errors[(visible & is_query).flatten()])


def mean_over_videos(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Unweighted mean of each score over the videos that have a visible evaluated point.

    A video without one is left out of every score, ``oa`` too. A NaN in a video that has one was
    predicted, and stays. ``num_points`` and the occlusion counts are sums over all videos, and
    ``of1`` is that of the summed counts, as published.

    Returns:
        The keys of ``item_scores``, ``num_videos`` (all that were given) and ``num_unscorable``
        (those left out); every mean is NaN if all were.
    """
    scorable = [video for video in scores if video[COUNT]]
    summed = (COUNT, *OCCLUSION_COUNTS)
    keys = [key for key in (scores[0] if scores else {}) if key not in summed]
    table = torch.tensor([[video[key] for key in keys] for video in scorable], dtype=torch.float64)
    means = table.mean(0).tolist() if scorable else [float("nan")] * len(keys)
    sums = {key: float(sum(video[key] for video in scores)) for key in summed}
    return (
        dict(zip(keys, means, strict=True))
        | sums
        | {
            "of1": functional.occlusion_f1(*(sums[key] for key in OCCLUSION_COUNTS)),
            "num_videos": float(len(scores)),
            "num_unscorable": float(len(scores) - len(scorable)),
        }
    )
