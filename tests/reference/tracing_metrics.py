"""Track and flow metrics as a reader would do them by hand: one point, one frame at a time."""

import math

THRESHOLDS_PX = (1, 2, 4, 8, 16)


def distance(a, b):
    return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)


def is_evaluated(frame, query_frame, mode):
    if mode == "cfg":
        return frame == query_frame + 5
    return frame > query_frame if mode == "first" else frame != query_frame


def endpoint_error(pred, target, valid):
    errors = [distance(p, t) for p, t, v in zip(pred, target, valid, strict=True) if v]
    return sum(errors) / len(errors)


def hit_share(pred, target, valid, patch_px):
    hits = [
        abs(p[0] - t[0]) <= patch_px / 2 and abs(p[1] - t[1]) <= patch_px / 2
        for p, t, v in zip(pred, target, valid, strict=True)
        if v
    ]
    return sum(hits) / len(hits)


def video_scores(query_frame, target, visible, pred, pred_visible, mode):
    """AD (query frame included), delta_avg, OA, AJ of one video; arrays as nested lists."""
    points, frames = len(target), len(target[0])
    ad, right, counted = [], 0, 0
    for i in range(points):
        for t in range(frames):
            if visible[i][t]:
                ad.append(distance(pred[i][t], target[i][t]))
            if is_evaluated(t, query_frame[i], mode):
                counted += 1
                right += pred_visible[i][t] == visible[i][t]
    deltas, jaccards = [], []
    for threshold in THRESHOLDS_PX:
        close = seen = true_positive = false_positive = 0
        for i in range(points):
            for t in range(frames):
                if not is_evaluated(t, query_frame[i], mode):
                    continue
                near = distance(pred[i][t], target[i][t]) < threshold
                if visible[i][t]:
                    seen += 1
                    close += near
                if pred_visible[i][t] and visible[i][t] and near:
                    true_positive += 1
                elif pred_visible[i][t]:
                    false_positive += 1
        deltas.append(close / seen)
        jaccards.append(true_positive / (seen + false_positive))
    return {
        "ad": sum(ad) / len(ad),
        "delta_avg": sum(deltas) / 5,
        "oa": right / counted,
        "aj": sum(jaccards) / 5,
    }
