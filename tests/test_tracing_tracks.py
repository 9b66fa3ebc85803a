"""Scores of point tracks, video by video, against a slow twin and independent evaluators."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from tests.reference import slow_tracks as slow
from tracing.metrics.tracks import mean_over_videos, video_scores


def random_video(seed, points=6, time=12):
    """pred, target, pred_visible, visible, is_query: the first visible frame, as in mode first."""
    generator = torch.Generator().manual_seed(seed)
    target = 64 * torch.rand(points, time, 2, generator=generator)
    pred = target + 4 * torch.randn(points, time, 2, generator=generator)
    visible = torch.rand(points, time, generator=generator) < 0.7
    visible[:, time // 2] = True
    is_query = visible & (visible.cumsum(1) == 1)
    pred_visible = torch.rand(points, time, generator=generator) < 0.7
    return pred, target, pred_visible, visible, is_query


def twin_of(pred, target, pred_visible, visible, is_query, mode="first"):
    lists = (each.tolist() for each in (pred, target, pred_visible, visible))
    return slow.video_scores(*lists, is_query.int().argmax(1).tolist(), mode)


@pytest.mark.parametrize("mode", ["first", "strided", "cfg"])
@pytest.mark.parametrize("seed", range(6))
def test_a_video_scores_what_the_slow_twin_finds(seed, mode):
    video = random_video(seed, points=3 + seed)
    assert video_scores(*video, mode) == pytest.approx(twin_of(*video, mode), abs=1e-12)


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
    assert scores["ad_median"] == 3


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
    is_query[0] = torch.arange(12) < marks
    with pytest.raises(ValueError, match="mark exactly one"):
        video_scores(pred, target, called, visible, is_query)


def test_predictions_of_another_length_are_refused():
    pred, target, called, visible, is_query = random_video(0)
    for short in ((pred[:, :-1], called[:, :-1]), (pred, called[:, :-1])):
        with pytest.raises((ValueError, TypeCheckError), match=r"predict every point|Type-check"):
            video_scores(short[0], target, short[1], visible, is_query)


def test_of1_is_that_of_counts_summed_over_all_videos():
    """One video with 1 of 1 found, one with 1 of 4: 2 * 2 / (2 * 2 + 0 + 3), not (1 + 0.4) / 2."""

    def video(found, missed):
        visible = torch.zeros(1, 2 + found + missed, dtype=torch.bool)
        visible[:, :2] = True
        called = ~torch.zeros_like(visible)
        called[:, 2 : 2 + found] = False
        zeros = torch.zeros(*visible.shape, 2)
        return video_scores(
            zeros, zeros, called, visible, torch.arange(visible.shape[1])[None] == 0
        )

    each = [video(1, 0), video(1, 3)]
    assert [one["of1"] for one in each] == pytest.approx([1, 0.4])
    mean = mean_over_videos(each)
    assert mean["of1"] == pytest.approx(4 / 7)
    assert (mean["occ_tp"], mean["occ_fp"], mean["occ_fn"]) == (2, 0, 3)


def test_nothing_hidden_and_nothing_called_so_has_no_of1():
    visible = torch.ones(1, 3, dtype=torch.bool)
    zeros = torch.zeros(1, 3, 2)
    scores = video_scores(zeros, zeros, visible, visible, torch.arange(3)[None] == 0)
    assert math.isnan(scores["of1"]) and scores["oa"] == scores["aj"] == 1


def test_cfg_halves_the_published_distance_and_keeps_the_true_one():
    """Every query frame enters AD with error 0, once for each target: 3 px are printed as 1.5."""
    target = torch.zeros(2, 8, 2)
    pred = target.clone()
    is_query = torch.zeros(2, 8, dtype=torch.bool)
    is_query[0, 0] = is_query[1, 2] = True
    pred[0, 5, 0] = pred[1, 7, 0] = 3.0
    pred[0, 4] = pred[1, 6] = 99.0  # nobody asks
    visible = torch.ones(2, 8, dtype=torch.bool)
    scores = video_scores(pred, target, visible, visible, is_query, "cfg")
    assert scores["epe"] == 3.0 and scores["ad"] == 1.5 and scores["num_points"] == 2
