"""A point is occluded if its tracer reappears nowhere, or is not traced back to where it came from.

Each cue has a threshold, and the thresholds are calibrated on points whose visibility is known.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Occlusion = Literal["peak_kl", "forward_backward", "both"]
CUES = {
    "peak_kl": ("peak_kl",),
    "forward_backward": ("return_px",),
    "both": ("peak_kl", "return_px"),
}
GRID = 256  # thresholds of each cue that are tried together where there are two


def is_visible(peak_kl: Float[Tensor, "*points"], threshold: float) -> Bool[Tensor, "*points"]:
    """Visible = the peak reaches the threshold (nats). Threshold 0 calls every point visible."""
    return peak_kl >= threshold


def came_back(return_px: Float[Tensor, "*points"], threshold: float) -> Bool[Tensor, "*points"]:
    """Visible = traced back to within the threshold (px); infinite: to anywhere in the frame."""
    return (return_px <= threshold) & return_px.isfinite()


def check_occlusion(rule: str) -> None:
    """Raise ValueError if there is no such rule."""
    if rule not in get_args(Occlusion):
        raise ValueError(f"occlusion={rule!r} is not known; use one of {get_args(Occlusion)}.")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What tells whether points are in view; a cue that has no say is None."""

    peak_kl: Float[Tensor, " points"] | None = None  # nats
    return_px: Float[Tensor, " points"] | None = None  # px; infinite: never came back

    @property
    def cues(self) -> set[str]:
        """The cues that are there."""
        return {cue for cue, values in vars(self).items() if values is not None}

    def suffices(self, rule: Occlusion) -> bool:
        """Whether every cue that the rule looks at is there."""
        return self.cues.issuperset(CUES[rule])

    def of(self, rule: Occlusion) -> "Evidence":
        """The cues that the rule looks at alone."""
        return Evidence(**{cue: getattr(self, cue) for cue in CUES[rule]})

    def at(self, chosen: Bool[Tensor, " points"]) -> "Evidence":
        """The evidence on some of the points."""
        return Evidence(**{cue: getattr(self, cue)[chosen] for cue in self.cues})


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Thresholds; a point is visible if every cue that has one says so."""

    peak_kl: float | None = None  # nats
    return_px: float | None = None  # px

    def visible(self, evidence: Evidence) -> Bool[Tensor, " points"]:
        """Who is called visible. Thresholds are float64: they may lie between float32 neighbors."""
        said = []
        if self.peak_kl is not None:
            said.append(is_visible(evidence.peak_kl.double(), self.peak_kl))
        if self.return_px is not None:
            said.append(came_back(evidence.return_px.double(), self.return_px))
        return torch.stack(said).all(0)


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
    cuts = _cuts(peak_kl, everyone=0.0)
    hits = _hits(peak_kl, cuts, visible)
    best = int(hits.argmax())  # first of the equal ones: the lowest threshold
    return float(cuts[best]), float(hits[best]) / len(peak_kl)


def best_return(
    return_px: Float[Tensor, " points"], visible: Bool[Tensor, " points"]
) -> tuple[float, float]:
    """As ``best_threshold`` for distances, where near means visible; ties go to the farthest.

    A point at infinite distance is occluded by any threshold; the infinite one calls all others
    visible. "None visible" is just under the smallest distance.

    Raises:
        ValueError: there are no points, or a distance is NaN.
    """
    if not return_px.numel() or return_px.isnan().any():
        raise ValueError(
            f"calibration needs distances, got {return_px.numel()} points of which "
            f"{int(return_px.isnan().sum())} are NaN; trace a split that has points."
        )
    near = return_px.isfinite()
    lost_hits = int((~visible[~near]).sum())
    if not near.any():
        return math.inf, lost_hits / len(return_px)
    closeness = -return_px[near]
    cuts = _cuts(closeness, everyone=-math.inf)
    hits = _hits(closeness, cuts, visible[near])
    best = int(hits.argmax())
    return 0.0 - float(cuts[best]), (float(hits[best]) + lost_hits) / len(return_px)


def best_cuts(evidence: Evidence, visible: Bool[Tensor, " points"]) -> tuple[Cuts, float]:
    """Thresholds of the cues that are there, chosen together, and the accuracy on this split.

    One cue: exact. Two: of each cue ``GRID`` thresholds, evenly spread over its distinct values
    (all of them, where there are no more), and the one that is best for it alone. Ties call the
    most points visible by their peak, then by their distance.
    """
    peaks, distances = evidence.peak_kl, evidence.return_px
    if distances is None:
        threshold, accuracy = best_threshold(peaks, visible)
        return Cuts(peak_kl=threshold), accuracy
    threshold, accuracy = best_return(distances, visible)
    if peaks is None:
        return Cuts(return_px=threshold), accuracy
    of_peak = _some(_cuts(peaks, everyone=0.0), best_threshold(peaks, visible)[0])
    closeness = -distances.double()
    near = closeness.isfinite()
    some = closeness[near] if near.any() else closeness.new_zeros(1)
    of_return = _some(_cuts(some, everyone=-math.inf), -threshold)
    # A point counts in every corner of thresholds that it passes: cumulate from the strictest.
    row = torch.bucketize(peaks.double(), of_peak, right=True)  # how many thresholds it passes
    col = torch.where(near, torch.bucketize(closeness, of_return, right=True), 0)
    gain = torch.zeros(len(of_peak) + 1, len(of_return) + 1, dtype=torch.int64)
    gain.index_put_((row.cpu(), col.cpu()), 2 * visible.long().cpu() - 1, accumulate=True)
    gain = gain.flip(0, 1).cumsum(0).cumsum(1).flip(0, 1)[1:, 1:]
    best = int(gain.argmax())
    row_best, col_best = divmod(best, gain.shape[1])  # the first of equal ones
    hits = int(gain.max()) + int((~visible).sum())
    cuts = Cuts(peak_kl=float(of_peak[row_best]), return_px=0.0 - float(of_return[col_best]))
    return cuts, hits / len(visible)


def cross_fitted_visible(
    evidence: Evidence, visible: Bool[Tensor, " points"], fold: Bool[Tensor, " points"]
) -> tuple[Bool[Tensor, " points"], tuple[Cuts, Cuts]]:
    """Who is called visible when each half is judged by the thresholds best for the other.

    No point has a say in the thresholds it is judged by. They come in two: first those that judge
    the points outside ``fold``, chosen on those inside, then the other way round.

    Raises:
        ValueError: a half has no points, or a cue is not a finite number.
    """
    if not (fold.any() and (~fold).any()):
        raise ValueError(
            f"cross-fitting needs points in both halves, got {int((~fold).sum())} and "
            f"{int(fold.sum())}; use a fixed threshold for so few."
        )
    outside, _ = best_cuts(evidence.at(fold), visible[fold])
    inside, _ = best_cuts(evidence.at(~fold), visible[~fold])
    called = torch.where(fold, inside.visible(evidence), outside.visible(evidence))
    return called, (outside, inside)


def _cuts(values: Float[Tensor, " points"], everyone: float) -> Float[Tensor, " cuts"]:
    """Thresholds that tell the values apart in every way, ascending: values >= it pass.

    The first, ``everyone``, lets all pass; the last, just over the largest, none.
    """
    distinct = values.double().unique()
    nobody = torch.nextafter(distinct[-1:], distinct.new_full((1,), torch.inf))
    between = (distinct[:-1] + distinct[1:]) / 2
    return torch.cat([distinct.new_full((1,), everyone), between, nobody])


def _hits(
    values: Float[Tensor, " points"],
    cuts: Float[Tensor, " cuts"],
    visible: Bool[Tensor, " points"],
) -> Float[Tensor, " cuts"]:
    """How many points each threshold tells right."""
    passes = torch.bucketize(values.double(), cuts, right=True)  # how many thresholds, from below

    def stopped(chosen: Tensor) -> Tensor:
        """How many of the chosen points do not pass each threshold."""
        return torch.bincount(passes[chosen], minlength=len(cuts) + 1).cumsum(0)[:-1]

    return (stopped(~visible) + visible.sum() - stopped(visible)).double()


def _some(cuts: Float[Tensor, " cuts"], best: float) -> Float[Tensor, " fewer"]:
    """At most ``GRID`` of the thresholds with both ends among them, and ``best``; ascending."""
    if len(cuts) > GRID:
        even = torch.linspace(0, len(cuts) - 1, GRID, dtype=torch.float64, device=cuts.device)
        cuts = cuts[even.round().long()]
    return torch.cat([cuts, cuts.new_tensor([best])]).unique()
