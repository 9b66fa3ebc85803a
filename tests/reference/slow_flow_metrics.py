"""Flow metrics as a reader would do them by hand: one pair, one pixel, one threshold at a time."""

import math

import numpy as np


def slow_pair(pred, flow, valid, visible=None):
    """Scores of one pair; arrays (2, H, W), (H, W). A score without pixels is None."""
    pixels = slow_pixels(pred, flow, valid, visible)
    return {name: mean(values) for name, values in pixels.items()}


def slow_pixels(pred, flow, valid, visible=None):
    """What every pixel gives to every score, as lists."""
    names = ["epe", "px1", "px3", "px5", "fl_all", "wauc", "s0_10", "s10_40", "s40"]
    names += ["epe_visible", "epe_occluded"]
    out = {name: [] for name in names}
    height, width = valid.shape
    for i in range(height):
        for j in range(width):
            if not valid[i, j]:
                continue
            off_u = float(pred[0, i, j]) - float(flow[0, i, j])
            off_v = float(pred[1, i, j]) - float(flow[1, i, j])
            error = math.sqrt(off_u**2 + off_v**2)
            length = math.sqrt(float(flow[0, i, j]) ** 2 + float(flow[1, i, j]) ** 2)
            out["epe"].append(error)
            for limit in 1, 3, 5:
                out[f"px{limit}"].append(1.0 if error < limit else 0.0)
            out["fl_all"].append(100.0 if error > 3 and error > 0.05 * length else 0.0)
            out["wauc"].append(slow_wauc(error))
            speed = "s0_10" if length < 10 else "s10_40" if length <= 40 else "s40"
            out[speed].append(error)
            if visible is not None:
                out["epe_visible" if visible[i, j] else "epe_occluded"].append(error)
    return out


def slow_wauc(error):
    weights = [1 - (i - 1) / 100 for i in range(1, 101)]
    within = [weight for i, weight in enumerate(weights, start=1) if error <= i / 20]
    return 100 * sum(within) / sum(weights)


def slow_set(pairs):
    """Both means over pairs, each given as the arguments of ``slow_pair``."""
    each = [slow_pixels(*pair) for pair in pairs]
    scores = {
        "pairs": sum(bool(e["epe"]) for e in each),
        "pixels": sum(len(e["epe"]) for e in each),
    }
    for name in each[0]:
        scores[name] = mean([mean(e[name]) for e in each if e[name]])
        if name != "wauc":
            scores[f"{name}_pooled"] = mean([value for e in each for value in e[name]])
    return scores


def slow_nearest(pred, finer, known):
    """(2, H, W): of the known vectors of each pixel the one nearest to the prediction."""
    out = np.zeros_like(pred)
    for i in range(pred.shape[1]):
        for j in range(pred.shape[2]):
            best = math.inf
            for k in range(len(finer)):
                apart = math.dist(pred[:, i, j], finer[k, :, i, j])
                if known[k, i, j] and apart < best:
                    best, out[:, i, j] = apart, finer[k, :, i, j]
    return out


def mean(values):
    return sum(values) / len(values) if values else None
