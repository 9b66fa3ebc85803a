"""Metrics of dense flow: sums over the valid pixels of one pair, then two means over pairs.

Each score of a pair is a ratio of two float64 sums, so a set of pairs has two means: over pairs,
each counting the same, and pooled over pixels. Errors are in pixels of the flow as given.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

WITHIN_PX = {"px1": 1.0, "px3": 3.0, "px5": 5.0}  # strictly closer
FL_PX, FL_SHARE = 3.0, 0.05  # KITTI: an outlier is off by more than both
WAUC_STEPS = 100  # thresholds 1/20, 2/20, ... 5 px with weights 1, 0.99, ... 0.01
PERCENT = ("fl_all", "wauc")
SCORES = ("epe", *WITHIN_PX, *PERCENT, "s0_10", "s10_40", "s40", "epe_visible", "epe_occluded")
Sums = dict[str, tuple[float, float]]  # score -> sum over pixels, pixels


def nearest_true_flow(
    pred: Float[Tensor, "2 height width"],
    finer: Float[Tensor, "vectors 2 height width"],
    known: Bool[Tensor, "vectors height width"],
) -> Float[Tensor, "2 height width"]:
    """Of several true vectors of a pixel, the known one that is nearest to the prediction.

    Where none is known the answer means nothing.

    Source:
        Mehl et al. 2023, Spring: ground truth of twice the size, the least of four errors counts.
    """
    apart = (finer.double() - pred.double()).norm(dim=1).masked_fill(~known, torch.inf)
    index = apart.argmin(0)
    return finer.gather(0, index[None, None].expand(1, 2, *index.shape))[0]


def pair_sums(
    pred: Float[Tensor, "2 height width"],
    flow: Float[Tensor, "2 height width"],
    valid: Bool[Tensor, "height width"],
    visible: Bool[Tensor, "height width"] | None = None,
) -> Sums:
    """Sum and number of pixels of every score of ``SCORES``, over the valid pixels of one pair.

    ``fl_all`` counts pixels off by more than 3 px and by more than 5 % of the true length.
    ``s0_10`` holds those that truly move by under 10 px, ``s40`` by more than 40, ``s10_40`` the
    rest. With ``visible`` unknown (None) its two scores have no pixel.

    Source:
        EPE: Baker et al. 2011. Fl-all: Menze and Geiger 2015. WAUC: Richter et al. 2017. Speeds:
        Butler et al. 2012.
    """
    error = (pred.double() - flow.double()).norm(dim=0)[valid]
    length = flow.double().norm(dim=0)[valid]
    everywhere = torch.ones_like(error, dtype=torch.bool)
    nowhere = ~everywhere
    seen, hidden = (nowhere, nowhere) if visible is None else (visible[valid], ~visible[valid])
    outlier = (error > FL_PX) & (error > FL_SHARE * length)
    values = {"epe": error, "fl_all": 100 * outlier.double(), "wauc": 100 * _wauc_weight(error)}
    values |= {name: (error < px).double() for name, px in WITHIN_PX.items()}
    sums = {name: _sum(value, everywhere) for name, value in values.items()}
    where = {"s0_10": length < 10, "s10_40": (length >= 10) & (length <= 40), "s40": length > 40}
    where |= {"epe_visible": seen, "epe_occluded": hidden}
    return sums | {name: _sum(error, own) for name, own in where.items()}


def pair_scores(sums: Sums) -> dict[str, float | None]:
    """Every score of one pair: px, shares of pixels in [0, 1], ``PERCENT`` in percent.

    None where a score has no pixel.
    """
    return {name: sums[name][0] / sums[name][1] if sums[name][1] else None for name in SCORES}


def set_scores(pairs: Sequence[Sums]) -> dict[str, float | int | None]:
    """Every score as the mean over the pairs that have it, and pooled over pixels (``_pooled``).

    ``pairs`` is the number of those with a valid pixel and ``pixels`` their valid pixels. WAUC is
    defined pair by pair and has no pooled value.
    """
    scores: dict[str, float | int | None] = {
        "pairs": sum(sums["epe"][1] > 0 for sums in pairs),
        "pixels": int(sum(sums["epe"][1] for sums in pairs)),
    }
    each = [pair_scores(sums) for sums in pairs]
    for name in SCORES:
        scores[name] = _mean([own[name] for own in each])
        if name != "wauc":
            scores[f"{name}_pooled"] = _pooled(name, pairs)
    return scores


def _pooled(name: str, pairs: Sequence[Mapping[str, tuple[float, float]]]) -> float | None:
    count = sum(sums[name][1] for sums in pairs)
    return sum(sums[name][0] for sums in pairs) / count if count else None


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _sum(values: Float64[Tensor, " pixels"], where: Bool[Tensor, " pixels"]) -> tuple[float, float]:
    return values[where].sum().item(), float(where.sum())


def _wauc_weight(error: Float64[Tensor, " pixels"]) -> Float64[Tensor, " pixels"]:
    """What each pixel adds to WAUC: the weights of all thresholds it lies within, over all weights.

    subtle: an error of exactly i / 20 px lies within threshold i.
    """
    thresholds = torch.arange(1, WAUC_STEPS + 1, dtype=torch.float64, device=error.device) / 20
    weights = 1 - torch.arange(WAUC_STEPS, dtype=torch.float64, device=error.device) / WAUC_STEPS
    from_here = torch.cat([weights.flip(0).cumsum(0).flip(0), weights.new_zeros(1)])
    return from_here[torch.searchsorted(thresholds, error)] / weights.sum()
