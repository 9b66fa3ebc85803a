"""Scores of point tracks, video by video, against a slow twin and independent evaluators."""

import json
import math

import numpy as np
import pytest
import torch

from tests.reference import slow_tracks as slow
from tracing.metrics.tracks import mean_over_videos, video_scores


def random_video(seed, points=6, time=9):
    """pred, target, pred_visible, visible, is_query; hidden before the query, as in mode first."""
    generator = torch.Generator().manual_seed(seed)
    target = 64 * torch.rand(points, time, 2, generator=generator)
    pred = target + 4 * torch.randn(points, time, 2, generator=generator)
    visible = torch.rand(points, time, generator=generator) < 0.7
    visible[:, time // 2] = True
    is_query = visible & (visible.cumsum(1) == 1)
    pred_visible = torch.rand(points, time, generator=generator) < 0.7
    return pred, target, pred_visible, visible, is_query


def twin_of(pred, target, pred_visible, visible, is_query):
    lists = (each.tolist() for each in (pred, target, pred_visible, visible))
    return slow.video_scores(*lists, is_query.int().argmax(1).tolist())


@pytest.mark.parametrize("seed", range(8))
def test_a_video_scores_what_the_slow_twin_finds(seed):
    video = random_video(seed, points=1 + seed)
    assert video_scores(*video) == pytest.approx(twin_of(*video), abs=1e-12)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["tapvid_first_0", "tapvid_first_1"])
def test_a_video_scores_what_independent_evaluators_print(shared_root, case):
    saved = np.load(shared_root / "golden" / "referee" / f"{case}.npz")
    expected = json.loads(str(saved["expected"]))
    pred, target = (torch.from_numpy(saved[f"{k}_tracks_xy"]) for k in ("pred", "gt"))
    called, visible = (torch.from_numpy(~saved[f"{k}_occluded"]) for k in ("pred", "gt"))
    query_frame = torch.from_numpy(saved["query_tyx"][:, :1]).long()
    scores = video_scores(
        pred, target, called, visible, torch.arange(visible.shape[1]) == query_frame
    )
    named = {"ad": "avg_distance", "oa": "occlusion_accuracy", "aj": "average_jaccard"}
    named |= {"delta_avg": "average_pts_within_thresh"}
    named |= {f"delta_{px}": f"pts_within_{px}" for px in (1, 2, 4, 8, 16)}
    for ours, theirs in named.items():
        assert scores[ours] == pytest.approx(expected[theirs], abs=1e-6)


def test_the_query_frame_counts_in_ad_alone_and_frames_before_it_nowhere():
    target = torch.zeros(1, 5, 2)
    pred = torch.tensor([[[50.0, 0], [3.0, 0], [5.0, 0], [99.0, 0], [1.5, 0]]])
    visible = torch.tensor([[True, True, True, False, True]])
    is_query = torch.tensor([[False, True, False, False, False]])
    scores = video_scores(pred, target, visible, visible, is_query)
    assert scores["ad"] == pytest.approx((3 + 5 + 1.5) / 3)
    assert scores["epe"] == scores["median"] == pytest.approx((5 + 1.5) / 2)
    assert [scores[f"delta_{px}"] for px in (1, 2, 4, 8, 16)] == [0, 0.5, 0.5, 1, 1]
    assert scores["num_points"] == 2 and scores["oa"] == 1


def test_thresholds_are_strict_and_visibility_is_half_of_the_jaccard():
    target, pred = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    pred[0, 1] = torch.tensor([0.0, 4.0])
    visible = torch.ones(2, 2, dtype=torch.bool)
    is_query = torch.tensor([[True, False]] * 2)
    called = torch.tensor([[True, True], [True, False]])
    scores = video_scores(pred, target, called, visible, is_query)
    assert scores["delta_4"] == 0.5 and scores["delta_8"] == 1.0
    # point 1 is missed; point 0 is right at 8 and 16 px, wrong and counted twice below
    assert scores["aj"] == pytest.approx((0 + 0 + 0 + 1 / 2 + 1 / 2) / 5)
    assert scores["oa"] == 0.5


def test_pooling_inside_a_video_and_the_plain_mean_over_videos():
    """Property: videos of unlike length weigh the same, points and frames of one video do."""
    videos = [random_video(seed, points=2 + 3 * seed, time=5 + seed) for seed in range(4)]
    each = [video_scores(*video) for video in videos]
    mean = mean_over_videos(each)
    assert mean == pytest.approx(slow.mean_over_videos([twin_of(*v) for v in videos]), abs=1e-12)
    # One point at a time, weighed by its visible frames, is the video again.
    pred, target, called, visible, is_query = videos[3]
    alone = [
        video_scores(*(part[i : i + 1] for part in (pred, target, called, visible, is_query)))
        for i in range(len(pred))
    ]
    frames = sum(a["num_points"] for a in alone)
    for key in ("epe", "delta_avg", "delta_2"):
        pooled = sum(a[key] * a["num_points"] for a in alone if a["num_points"]) / frames
        assert pooled == pytest.approx(each[3][key], abs=1e-12)


def test_the_order_of_points_and_videos_changes_nothing():
    videos = [random_video(seed) for seed in range(3)]
    shuffle = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    turned = [video_scores(*(part[shuffle] for part in video)) for video in reversed(videos)]
    straight = mean_over_videos([video_scores(*video) for video in videos])
    assert mean_over_videos(turned) == pytest.approx(straight, abs=1e-12)


def test_a_video_with_nothing_to_score_is_counted_and_left_out():
    good, blind = random_video(0), random_video(1)
    nothing = blind[3] & blind[4]  # visible in the query frame only
    scores = [video_scores(*good), video_scores(*blind[:3], nothing, blind[4])]
    assert math.isnan(scores[1]["epe"]) and math.isnan(scores[1]["delta_avg"])
    assert scores[1]["oa"] > 0
    mean = mean_over_videos(scores)
    assert (mean["num_videos"], mean["num_unscorable"]) == (2, 1)
    assert mean["oa"] == scores[0]["oa"] and mean["epe"] == scores[0]["epe"]
    lost = mean_over_videos(scores[1:])
    assert math.isnan(lost["epe"]) and lost["num_unscorable"] == 1 and lost["num_points"] == 0


def test_a_nan_that_was_predicted_is_not_averaged_away():
    good, bad = random_video(0), random_video(1)
    bad[0].fill_(math.nan)
    mean = mean_over_videos([video_scores(*good), video_scores(*bad)])
    assert math.isnan(mean["epe"]) and mean["num_unscorable"] == 0


@pytest.mark.parametrize("marks", [0, 2])
def test_a_point_has_exactly_one_query_frame(marks):
    pred, target, called, visible, is_query = random_video(0)
    is_query = is_query.clone()
    is_query[0] = torch.arange(9) < marks
    with pytest.raises(ValueError, match="mark exactly one"):
        video_scores(pred, target, called, visible, is_query)
