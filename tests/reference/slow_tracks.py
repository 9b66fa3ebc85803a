"""The scores of one video of tracks, one point and one frame at a time; query mode "first"."""

from statistics import fmean

from tests.reference.tracing_metrics import THRESHOLDS_PX, distance
from tests.reference.tracing_metrics import video_scores as four_scores


def median(values):
    """Middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def video_scores(pred, target, pred_visible, visible, query_frame):
    """The keys of ``tracing.metrics.tracks.video_scores``; arrays as nested lists."""
    errors, at_query = [], []
    for i, query in enumerate(query_frame):
        for t in range(query, len(target[i])):
            if visible[i][t]:
                error = distance(pred[i][t], target[i][t])
                (at_query if t == query else errors).append(error)
    four = four_scores(query_frame, target, visible, pred, pred_visible, "first")
    deltas = {f"delta_{px}": fmean(e < px for e in errors) for px in THRESHOLDS_PX}
    return deltas | {
        "ad": fmean(errors + at_query),
        "epe": fmean(errors),
        "median": median(errors),
        "delta_avg": four["delta_avg"],
        "oa": four["oa"],
        "aj": four["aj"],
        "num_points": len(errors),
    }


def mean_over_videos(videos):
    """Mean of each score over the videos that have something to score."""
    scorable = [video for video in videos if video["num_points"]]
    means = {key: fmean(video[key] for video in scorable) for key in scorable[0]}
    return means | {
        "num_points": sum(video["num_points"] for video in videos),
        "num_videos": len(videos),
        "num_unscorable": len(videos) - len(scorable),
    }
