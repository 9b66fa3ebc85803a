"""The probe's figures by plain loops over single points."""

import math

from tracing.probe.scores import BIN_EDGES_PX, Answer
from tracing.probe.sets import ProbeSet


def slow_probe_scores(probe: ProbeSet, answers: list[Answer], patch_px: int) -> dict[str, float]:
    """``epe``, ``median``, ``hit``, ``ratio_to_zero``, ``ad``, ``delta_avg`` and every bin."""
    errors, still, hits, bins, ads, deltas = [], [], [], {}, [], []
    for part, hw, shown, answer in zip(
        probe.stored, probe.hw, probe.shown, answers, strict=True
    ):  # fmt: skip
        side = shown.frame0.shape[-1]
        far, near = [], []
        for i in range(part.points.shape[1]):
            if not part.visible[0, i]:
                continue
            x, y = (v / side for v in answer.xy[i].tolist())
            tx, ty = part.target[0, i].tolist()
            qx, qy = part.points[0, i].tolist()
            error = math.hypot(x * hw[1] - tx, y * hw[0] - ty)
            moved = math.hypot(qx - tx, qy - ty)
            errors.append(error)
            still.append(moved)
            ax, ay = tx / hw[1] * side, ty / hw[0] * side
            hits.append(max(abs(x * side - ax), abs(y * side - ay)) <= patch_px / 2)
            at_256 = math.hypot((x - tx / hw[1]) * 256, (y - ty / hw[0]) * 256)
            far.append(at_256)
            near.append(sum(at_256 < limit for limit in (1, 2, 4, 8, 16)) / 5)
            bin_ = next(b for b in range(len(BIN_EDGES_PX)) if moved < BIN_EDGES_PX[b + 1])
            low, high = BIN_EDGES_PX[bin_], BIN_EDGES_PX[bin_ + 1]
            for name in ("all", "sprites" if part.layer[0, i] else "background"):
                bins.setdefault(f"epe_{name}_{low:g}-{high:g}px", []).append(error)
        if far:
            ads.append(
                sum(far) / (len(far) + part.points.shape[1])
            )  # every query frame counts, with 0
            deltas.append(sum(near) / len(near))
    ranked = sorted(errors)
    middle = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return {
        "epe": mean(errors),
        "median": middle,
        "hit": mean(hits),
        "ratio_to_zero": mean(errors) / mean(still),
        "ad": mean(ads),
        "delta_avg": mean(deltas),
    } | {name: mean(values) for name, values in bins.items()}


def mean(values: list) -> float:
    return sum(values) / len(values)
