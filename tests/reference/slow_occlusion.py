"""Occlusion one point at a time: tracing there and back, and thresholds by trying every one."""

from itertools import pairwise
from math import dist, inf

import torch


def way_back(tracer, frame0, frame1, points, seed, back_seed):
    """Distances (px) from each query to where its answer came back to; one point at a time."""
    height, width = frame0.shape[-2:]
    distances = []
    for pair in range(len(points)):
        one0, one1 = frame0[pair : pair + 1], frame1[pair : pair + 1]
        for query in points[pair]:
            x, y = tracer(one0, one1, query[None, None], seed=seed).xy[0, 0].tolist()
            if not (0 <= x <= width and 0 <= y <= height):
                distances.append(inf)
                continue
            landed = torch.tensor([[[x, y]]])
            back = tracer(one1, one0, landed, seed=back_seed).xy[0, 0].tolist()
            distances.append(dist(back, query.tolist()))
    return distances


def thresholds(values):
    """One below all values, one between any two neighbors, one above all."""
    ordered = sorted({value for value in values if value < inf})
    between = [(a + b) / 2 for a, b in pairwise(ordered)]
    return [-1.0, *between, ordered[-1] + 1] if ordered else [-1.0]


def called(peaks, distances, peak_cut, return_cut):
    """Who is visible; a cue without a threshold has no say."""
    return [
        (peak_cut is None or peak >= peak_cut)
        and (return_cut is None or (away < inf and away <= return_cut))
        for peak, away in zip(peaks, distances, strict=True)
    ]


def accuracy(said, visible):
    return sum(a == b for a, b in zip(said, visible, strict=True)) / len(visible)


def best_accuracy(peaks, distances, visible, rule):
    """The accuracy of the best thresholds there are."""
    peak_cuts = [None] if rule == "forward_backward" else thresholds(peaks)
    return_cuts = [None] if rule == "peak_kl" else thresholds(distances)
    return max(
        accuracy(called(peaks, distances, a, d), visible) for a in peak_cuts for d in return_cuts
    )
