"""The scores of one video of tracks, one point and one frame at a time."""

from statistics import fmean

from tests.reference.tracing_metrics import THRESHOLDS_PX, distance, is_evaluated


def median(values):
    """Middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def f1(tp, fp, fn):
    """Harmonic mean of precision and recall, by its definition."""
    if not tp:
        return 0.0 if fp + fn else float("nan")
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return 2 * precision * recall / (precision + recall)


def video_scores(pred, target, pred_visible, visible, query_frame, mode="first"):
    """The keys of ``tracing.metrics.tracks.item_scores``; arrays as nested lists."""
    errors, at_query, right, evaluated = [], [], 0, 0
    tp = fp = fn = 0
    hits = dict.fromkeys(THRESHOLDS_PX, 0)
    false_positives = dict.fromkeys(THRESHOLDS_PX, 0)
    for i, query in enumerate(query_frame):
        for t in range(len(target[i])):
            error = distance(pred[i][t], target[i][t])
            if t == query and visible[i][t]:
                at_query.append(error)
            if not is_evaluated(t, query, mode):
                continue
            evaluated += 1
            right += pred_visible[i][t] == visible[i][t]
            tp += not pred_visible[i][t] and not visible[i][t]
            fp += not pred_visible[i][t] and visible[i][t]
            fn += pred_visible[i][t] and not visible[i][t]
            if visible[i][t]:
                errors.append(error)
            if pred_visible[i][t]:
                for px in THRESHOLDS_PX:
                    if visible[i][t] and error < px:
                        hits[px] += 1
                    else:
                        false_positives[px] += 1
    deltas = {f"delta_{px}": fmean(e < px for e in errors) for px in THRESHOLDS_PX}
    jaccards = {
        f"jaccard_{px}": hits[px] / (len(errors) + false_positives[px]) for px in THRESHOLDS_PX
    }
    return deltas | jaccards | {
        "ad": fmean(errors + at_query),
        "ad_median": median(errors + at_query),
        "epe": fmean(errors),
        "median": median(errors),
        "delta_avg": fmean(deltas.values()),
        "oa": right / evaluated,
        "of1": f1(tp, fp, fn),
        "aj": fmean(jaccards.values()),
        "num_points": len(errors),
        "occ_tp": tp,
        "occ_fp": fp,
        "occ_fn": fn,
    }  # fmt: skip


def mean_over_videos(videos):
    """Mean of each score over the videos that have something to score; counts are sums."""
    scorable = [video for video in videos if video["num_points"]]
    counts = ("num_points", "occ_tp", "occ_fp", "occ_fn")
    means = {
        key: fmean(video[key] for video in scorable) for key in scorable[0] if key not in counts
    }
    sums = {key: sum(video[key] for video in videos) for key in counts}
    return means | sums | {
        "of1": f1(sums["occ_tp"], sums["occ_fp"], sums["occ_fn"]),
        "num_videos": len(videos),
        "num_unscorable": len(videos) - len(scorable),
    }  # fmt: skip
