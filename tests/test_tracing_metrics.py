import pytest
import torch
from jaxtyping import TypeCheckError
from torchmetrics import MetricCollection

from data.types import PointPairs
from tests.reference import tracing_metrics as slow
from tracing.metrics import classes, functional


def random_video(seed, points=7, time=9):
    generator = torch.Generator().manual_seed(seed)
    target = 64 * torch.rand(points, time, 2, generator=generator)
    pred = target + 4 * torch.randn(points, time, 2, generator=generator)
    visible = torch.rand(points, time, generator=generator) < 0.7
    pred_visible = torch.rand(points, time, generator=generator) < 0.7
    query_frame = torch.randint(time - 2, (points,), generator=generator)
    return query_frame, target, visible, pred, pred_visible


def video_metrics(mode):
    return MetricCollection(
        {
            "ad": classes.AverageDistance(mode),
            "delta_avg": classes.DeltaAvg(mode),
            "oa": classes.OcclusionAccuracy(mode),
            "aj": classes.AverageJaccard(mode),
        },
        compute_groups=False,
    )


@pytest.mark.parametrize("mode", ["first", "strided", "cfg"])
def test_classes_average_over_videos_what_the_slow_twin_finds_in_each(mode):
    videos = [random_video(seed, points=3 + seed) for seed in range(3)]
    metrics = video_metrics(mode)
    for video in videos:
        metrics.update(*video)

    twins = [slow.video_scores(*(t.tolist() for t in video), mode) for video in videos]
    for name, value in metrics.compute().items():
        assert value.item() == pytest.approx(sum(t[name] for t in twins) / 3, abs=1e-12)


def test_pooled_classes_weigh_points_and_equal_the_slow_twin():
    generator = torch.Generator().manual_seed(3)
    epe, hit, delta = classes.EndPointError(), classes.HitShare(4), classes.PointDeltaAvg()
    seen = ([], [], [])
    for count in (2, 11, 5):
        target = 32 * torch.rand(count, 2, generator=generator)
        pred = target + 2 * torch.randn(count, 2, generator=generator)
        valid = torch.rand(count, generator=generator) < 0.8
        for metric in (epe, hit, delta):
            metric.update(pred, target, valid)
        for kept, new in zip(seen, (pred, target, valid), strict=True):
            kept.append(new)
    pred, target, valid = map(torch.cat, seen)
    lists = pred.tolist(), target.tolist(), valid.tolist()

    assert epe.compute().item() == pytest.approx(slow.endpoint_error(*lists), abs=1e-12)
    assert hit.compute().item() == pytest.approx(slow.hit_share(*lists, 4), abs=1e-12)
    assert delta.compute() == pytest.approx(functional.delta_avg(pred, target, valid).item())


def test_average_distance_counts_the_query_frame_and_nothing_hidden():
    target = torch.zeros(1, 4, 2)
    pred = torch.tensor([[[9.0, 9], [0, 0], [0, 4], [99, 99]]])  # query at frame 1
    visible = torch.tensor([[False, True, True, False]])
    assert functional.average_distance(pred, target, visible).item() == 2.0
    evaluated = functional.evaluated_frames(torch.tensor([1]), 4, "first")
    assert functional.endpoint_error(pred, target, visible & evaluated).item() == 4.0


def test_thresholds_are_strict():
    target, pred = torch.zeros(1, 2), torch.tensor([[0.0, 4.0]])
    visible = torch.ones(1, dtype=torch.bool)
    assert functional.delta_per_threshold(pred, target, visible).tolist() == [0, 0, 0, 1, 1]


def test_a_video_without_a_score_is_left_out_of_the_mean():
    query_frame, target, visible, pred, pred_visible = random_video(0)
    metric = classes.DeltaAvg("first")
    metric.update(query_frame, target, visible, pred, pred_visible)
    alone = metric.compute().item()
    metric.update(query_frame, target, torch.zeros_like(visible), pred, pred_visible)
    assert metric.compute().item() == alone
    assert metric.count.item() == 1


def test_a_huge_error_does_not_swallow_a_small_one():
    metric = classes.EndPointError()
    metric.update(torch.full((1, 2), 2.0**27), torch.zeros(1, 2), torch.ones(1, dtype=torch.bool))
    metric.update(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, dtype=torch.bool))
    assert metric.total.item() == pytest.approx((2**27 + 1) * 2**0.5, rel=1e-15)


def test_an_unknown_query_mode_is_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        functional.evaluated_frames(torch.zeros(1).long(), 3, "every")


def test_two_frame_scores_leave_out_hidden_and_padding_points():
    frames = torch.zeros(1, 3, 64, 128)
    target = torch.tensor([[[10.0, 10], [20, 20], [30, 30]]])
    pred = target + torch.tensor([[[3.0, 0], [50, 50], [70, 70]]])
    pairs = PointPairs(
        frames,
        frames,
        target.clone(),
        target,
        visible=torch.tensor([[True, False, True]]),
        valid=torch.tensor([[True, True, False]]),
        name="one point counts",
    )
    scores = functional.two_frame_scores(pred, pairs, patch_px=4)
    # 3 px of 128 are 6 px of 256: within 8 and 16 only
    assert scores == {"epe": 3.0, "median": 3.0, "delta_avg": 0.4, "hit": 0.0, "num_points": 1}
    assert functional.two_frame_scores(pred, pairs, patch_px=6)["hit"] == 1.0
