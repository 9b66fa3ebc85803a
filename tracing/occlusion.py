"""A point whose tracer reappears nowhere is occluded: the threshold rule and its calibration."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def is_visible(peak_kl: Float[Tensor, "*points"], threshold: float) -> Bool[Tensor, "*points"]:
    """Visible = the peak reaches the threshold (nats). Threshold 0 calls every point visible."""
    return peak_kl >= threshold


def best_threshold(
    peak_kl: Float[Tensor, " points"], visible: Bool[Tensor, " points"]
) -> tuple[float, float]:
    """Threshold that maximizes occlusion accuracy on the given split, and that accuracy.

    Exact: every distinct split of the peaks is tried, at the midpoint between neighbors, as well
    as "all visible" (0) and "none visible" (just over the largest peak). Ties go to the lowest.
    Choose it on one split and report on another.

    Raises:
        ValueError: there are no points, or a peak is not a finite number.
    """
    if not peak_kl.numel() or not peak_kl.isfinite().all():
        raise ValueError(
            f"calibration needs finite peaks, got {peak_kl.numel()} points of which "
            f"{int(peak_kl.isfinite().sum())} are finite; trace a split that has points."
        )
    peaks, order = peak_kl.double().sort()
    truth = visible[order].long()
    # Calling the first k of the sorted points occluded is right for its k occluded ones below
    # and for the visible ones from k on.
    hits_below = torch.cat([truth.new_zeros(1), (1 - truth).cumsum(0)])
    hits_above = torch.cat([truth.flip(0).cumsum(0).flip(0), truth.new_zeros(1)])
    above_all = torch.nextafter(peaks[-1:], peaks.new_full((1,), torch.inf))
    upper = torch.cat([peaks, above_all])
    lower = torch.cat([peaks.new_zeros(1), peaks])
    cuts = (lower + upper) / 2
    cuts[0], cuts[-1] = 0.0, above_all[0]
    can_cut = lower < upper  # equal peaks cannot be told apart
    can_cut[0] = True
    accuracy = torch.where(can_cut, hits_below + hits_above, -1).double() / len(peaks)
    best = int(accuracy.argmax())  # first of the equal ones: the lowest threshold
    return float(cuts[best]), float(accuracy[best])


def cross_fitted_visible(
    peak_kl: Float[Tensor, " points"],
    visible: Bool[Tensor, " points"],
    fold: Bool[Tensor, " points"],
) -> tuple[Bool[Tensor, " points"], tuple[float, float]]:
    """Who is called visible when each half is judged by the threshold that is best for the other.

    No point has a say in the threshold it is judged by. Thresholds are in nats: first the one that
    judges the points outside ``fold``, chosen on those inside, then the other way round.

    Raises:
        ValueError: a half has no points, or a peak is not a finite number.
    """
    if not (fold.any() and (~fold).any()):
        raise ValueError(
            f"cross-fitting needs points in both halves, got {int((~fold).sum())} and "
            f"{int(fold.sum())}; use a fixed threshold for so few."
        )
    outside, _ = best_threshold(peak_kl[fold], visible[fold])
    inside, _ = best_threshold(peak_kl[~fold], visible[~fold])
    exact = peak_kl.double()  # subtle: a threshold may lie between two neighbors of float32
    called = torch.where(fold, is_visible(exact, inside), is_visible(exact, outside))
    return called, (outside, inside)
