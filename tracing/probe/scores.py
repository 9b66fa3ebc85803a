"""From answers to the figures a probe logs. Pure: no model, no clock, no ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.coords import rescale_points
from tracing.benchmarks.base import perfect_answer
from tracing.benchmarks.flips import flip_shares
from tracing.config import Placement
from tracing.metrics import functional
from tracing.metrics.tracks import mean_over_videos, video_scores
from tracing.occlusion import Evidence, cross_fitted_visible
from tracing.probe.sets import ProbeSet

BIN_EDGES_PX = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, math.inf)  # of motion, as stored
TRACKS = ("ad", "delta_avg", "oa", "aj")


@dataclass(frozen=True)
class Answer:
    """What a tracer said of the points of one part; ``xy`` in pixels of the frames it was shown."""

    part: int  # index in the set
    xy: Float[Tensor, "points 2"]
    peak_kl: Float[Tensor, " points"]  # nats
    flipped_codes: Int[Tensor, " points"]
    maps: Float[Tensor, "points rows cols"] | None = None  # of pictured parts only
    attempt: Int[Tensor, " points"] | None = None  # as in ``Traces``


def scores(probe: ProbeSet, answers: Sequence[Answer], patch_px: int) -> dict[str, float]:
    """The figures of one probe of one set, from the answers of all its parts in order.

    ``epe`` and ``median`` (px of the frames as stored) and ``hit`` are pooled over the visible
    points. ``ad``, ``delta_avg``, ``oa`` and ``aj`` are TAP-Vid's, at 256x256: per frame pair,
    then the mean over pairs; in ``ad``, as published, the query frame counts with its error of 0.
    ``oa`` and ``aj`` call a point visible by a threshold on the peak that the other half of the
    pairs chose; a set without hidden targets has neither. ``flipped_codes`` is the mean number of
    codes a tracer changed, ``silent`` the share of points where it changed none, ``dark`` and
    ``wide`` (if the answers tell) the shares where a second or a third attempt changed some.
    """
    _check(probe, answers)
    xy = in_stored_pixels(probe, [answer.xy for answer in answers])
    peak = torch.cat([answer.peak_kl for answer in answers])
    flipped = torch.cat([answer.flipped_codes for answer in answers])
    inside = torch.cat([answer.xy for answer in answers])
    aimed = torch.cat([part.target[0] for part in probe.shown])
    visible = _joined(probe, "visible")
    called = called_visible(probe, peak)
    figures = _pooled(probe, xy)
    figures["hit"] = functional.hit_share(inside, aimed, visible, patch_px).item()
    figures |= _per_pair(probe, xy, called)
    if probe.num_visible == probe.num_points:  # nothing to tell apart: 1.0 would mean nothing
        del figures["oa"], figures["aj"]
    figures["peak_kl"] = peak.double().mean().item()
    attempts = [answer.attempt for answer in answers if answer.attempt is not None]
    shares = flip_shares(flipped, torch.cat(attempts) if attempts else None)
    figures["flipped_codes"] = shares["mean_codes"]
    figures |= {key: shares[key] for key in ("silent", *(["dark", "wide"] if attempts else []))}
    return figures | binned_epe(probe, xy)


def baseline_scores(
    probe: ProbeSet, patch_px: int, placement: Placement, map_px: int
) -> dict[str, float]:
    """Zero motion, DIS and the read-out floor on the same points; they never change."""
    still = torch.cat([part.points[0] for part in probe.stored])
    everyone = torch.ones(len(still), dtype=torch.bool)
    figures = {}
    for name, xy in (("zero", still), ("dis", torch.cat(probe.dis))):
        per_pair = _per_pair(probe, xy, everyone)
        figures[f"{name}_epe"] = _pooled(probe, xy)["epe"]
        figures[f"{name}_delta_avg"] = per_pair["delta_avg"]
    perfect = [perfect_answer(part, patch_px, placement, map_px)[0] for part in probe.shown]
    figures["floor"] = _pooled(probe, in_stored_pixels(probe, perfect))["epe"]
    return figures


def in_stored_pixels(
    probe: ProbeSet, xy: Sequence[Float[Tensor, "points 2"]]
) -> Float[Tensor, "all_points 2"]:
    """Answers on the frames as shown, in pixels of the frames as stored; all parts joined."""
    scaled = []
    for part, stored_hw, answer in zip(probe.shown, probe.hw, xy, strict=True):
        shown_hw = (part.frame0.shape[-2], part.frame0.shape[-1])
        scaled.append(rescale_points(answer, shown_hw, stored_hw))
    return torch.cat(scaled)


def called_visible(
    probe: ProbeSet, peak: Float[Tensor, " all_points"]
) -> Bool[Tensor, " all_points"]:
    """Each half of the pairs is judged by the threshold that is best on the other half."""
    sizes = [part.points.shape[1] for part in probe.stored]
    pair = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    fold = pair % 2 == 1
    if not fold.any() or not peak.isfinite().all():
        return torch.ones_like(fold)  # nothing to calibrate on
    return cross_fitted_visible(Evidence(peak_kl=peak), _joined(probe, "visible"), fold)[0]


def binned_epe(probe: ProbeSet, xy: Float[Tensor, "all_points 2"]) -> dict[str, float]:
    """EPE by how far the point truly moved, for all points and, where known, by layer.

    Keys: ``epe_<layer>_<low>-<high>px``; a bin without a visible point has no key.
    """
    target, visible = _joined(probe, "target"), _joined(probe, "visible")
    error = functional.distances(xy, target)
    motion = functional.distances(target, torch.cat([p.points[0] for p in probe.stored]))
    groups = {"all": visible}
    if all(part.layer is not None for part in probe.stored):
        layer = _joined(probe, "layer")
        groups |= {"background": visible & (layer == 0), "sprites": visible & (layer > 0)}
    figures = {}
    for name, group in groups.items():
        for low, high in pairwise(BIN_EDGES_PX):
            chosen = group & (motion >= low) & (motion < high)
            if chosen.any():
                figures[f"epe_{name}_{low:g}-{high:g}px"] = error[chosen].mean().item()
    return figures


def _pooled(probe: ProbeSet, xy: Float[Tensor, "all_points 2"]) -> dict[str, float]:
    visible = _joined(probe, "visible")
    error = functional.distances(xy, _joined(probe, "target"))[visible]
    still = torch.cat([part.points[0] for part in probe.stored])
    zero = functional.distances(still, _joined(probe, "target"))[visible]
    ratio = (error.mean() / zero.mean()).item()
    return {
        "epe": error.mean().item(),
        "median": error.quantile(0.5).item(),
        "ratio_to_zero": ratio,
    }


def _per_pair(
    probe: ProbeSet, xy: Float[Tensor, "all_points 2"], called: Bool[Tensor, " all_points"]
) -> dict[str, float]:
    """TAP-Vid's scores: a frame pair is a video of two frames, its first the query frame."""
    videos, start = [], 0
    for part, hw in zip(probe.stored, probe.hw, strict=True):
        stop = start + part.points.shape[1]
        query, target = part.points[0], part.target[0]
        seen = torch.ones(len(query), dtype=torch.bool)

        def at_256(first: Tensor, second: Tensor, hw: tuple[int, int] = hw) -> Tensor:
            return rescale_points(torch.stack([first, second], 1), hw, functional.BENCHMARK_HW)

        videos.append(
            video_scores(
                at_256(query, xy[start:stop]),
                at_256(query, target),
                torch.stack([seen, called[start:stop]], 1),
                torch.stack([seen, part.visible[0]], 1),
                torch.stack([seen, ~seen], 1),
            )
        )
        start = stop
    mean = mean_over_videos(videos)
    return {name: mean[name] for name in TRACKS}


def _joined(probe: ProbeSet, field: str) -> Tensor:
    return torch.cat([getattr(part, field)[0] for part in probe.stored])


def _check(probe: ProbeSet, answers: Sequence[Answer]) -> None:
    if [answer.part for answer in answers] != list(range(len(probe.shown))):
        raise ValueError(
            f"answers are for parts {[a.part for a in answers]}, expected each of the "
            f"{len(probe.shown)} parts once, in order; gather them from all ranks first."
        )
