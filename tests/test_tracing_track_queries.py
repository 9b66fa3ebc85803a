"""Query modes: what they ask, the exact oracle through the whole task, and what is refused."""

import numpy as np
import pytest
import torch
from fake_datasets import fake_track, write_tracks
from fake_tracks import Oracle, long_track, write_kubric
from jaxtyping import TypeCheckError

from data.readers.tapvid import TrackFile
from tests.reference import slow_tracks as slow
from tests.reference.slow_track_queries import asked
from tracing.baselines import ZeroMotion
from tracing.benchmarks.flow import Resized
from tracing.benchmarks.tapvid import TapVid
from tracing.benchmarks.track_queries import queries_of

MODES = ("first", "strided", "cfg")


@pytest.fixture
def path(tmp_path):
    return write_tracks(tmp_path / "a.pkl", {"a": long_track(), "b": long_track(13, seed=4)})


def score(task, *tracers):
    return task.score(tracers, task.parts, 0, patch_px=4)


def items_of(task, video):
    """(point, query frame, target frame) of what the task asks of a video, as a list."""
    own = task.parts.videos[video]
    rows = [task.parts.kept[video][own.point], own.queries.frame[own.query], own.frame]
    return list(zip(*(row.tolist() for row in rows), strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_asks_what_the_slow_twin_asks(mode, path):
    task = TapVid(path, seed=0, query_mode=mode)
    for video in range(2):
        _, visible = TrackFile(path).tracks(video, (256, 256))
        ours = items_of(task, video)
        assert sorted(ours) == sorted(asked(visible.tolist(), mode))
        assert [(q, t) for _, q, t in ours] == sorted((q, t) for _, q, t in ours)


@pytest.mark.parametrize("mode", MODES)
def test_the_parts_show_the_frames_and_points_that_are_asked(mode, path):
    task = TapVid(path, seed=0, query_mode=mode)
    file, seen = TrackFile(path), []
    for index, part in enumerate(task.parts):
        ask = task.parts.asked(index)
        track = file[ask.video]
        assert part.name == f"{track.name}/{ask.q:03d}-{ask.t:03d}"
        assert torch.equal(part.frame0[0], track.frames[ask.q].float() / 255)
        assert torch.equal(part.frame1[0], track.frames[ask.t].float() / 255)
        own = [p for p, q, t in items_of(task, ask.video) if (q, t) == (ask.q, ask.t)]
        assert torch.equal(part.points[0], track.points[own, ask.q])
        assert torch.equal(part.target[0], track.points[own, ask.t])
        assert torch.equal(part.visible[0], track.visible[own, ask.t])
        seen.append(part.name)
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("mode", MODES)
def test_an_exact_oracle_is_exact_through_the_whole_task(mode, path):
    task = TapVid(path, seed=0, query_mode=mode)
    (row,) = score(task, Oracle(task.parts))
    perfect = ("delta_avg", "oa", "of1", "aj", "delta_1", "jaccard_1")
    assert row.epe <= 1e-4 and row.scores["ad"] <= 1e-4 and row.median <= 1e-4
    assert [row.scores[key] for key in perfect] == [1.0] * len(perfect)


@pytest.mark.parametrize("mode", MODES)
def test_a_known_error_scores_what_the_slow_twin_finds(mode, path):
    """3 px of 256 to the right of the truth, everything called visible."""
    task = TapVid(path, seed=0, query_mode=mode)
    (row,) = score(task, Oracle(task.parts, px=0.375))
    videos = []
    for video in range(2):
        points, visible = TrackFile(path).tracks(video, (256, 256))
        queries = queries_of(points, visible, mode)
        target, seen = points[queries.point], visible[queries.point]
        pred = target + torch.tensor([3.0, 0.0])
        numbers = torch.arange(len(queries))
        pred[numbers, queries.frame] = target[numbers, queries.frame]
        lists = (each.tolist() for each in (pred, target, seen, seen, queries.frame))
        videos.append(slow.video_scores(*lists, mode))
    mean = slow.mean_over_videos(videos)
    for key in ("epe", "ad", "ad_median", "median", "delta_2", "delta_4", "aj", "jaccard_8"):
        assert row.scores[key] == pytest.approx(mean[key], abs=1e-4), key
    assert row.scores["num_points"] == mean["num_points"]


def test_cfg_prints_the_diluted_distance_beside_the_true_one(path):
    task = TapVid(path, seed=0, query_mode="cfg")
    (row,) = score(task, Oracle(task.parts, px=0.375))
    assert row.epe == pytest.approx(3.0, abs=1e-4)
    each = []
    for video in task.parts.videos:
        errors = 3.0 * int(video.visible.sum())
        each.append(errors / (int(video.visible.sum()) + len(video.queries)))
    assert row.scores["ad"] == pytest.approx(np.mean(each), abs=1e-4)
    assert 1.3 < row.scores["ad"] < 1.5
    assert "about halves" in task.about()["ad"]


def test_the_results_say_the_mode_in_one_word_and_in_a_sentence(path):
    for mode in MODES:
        about = TapVid(path, seed=0, query_mode=mode).about()
        assert about["query_mode"] == mode and len(about["queries"]) > 30
    seen = [TrackFile(path).tracks(video, (256, 256))[1].tolist() for video in range(2)]
    assert about["num_queries"] == sum(len(asked(each, "cfg")) for each in seen)


def test_strided_refuses_who_cannot_go_back_in_time(path):
    task = TapVid(path, seed=0, query_mode="strided")
    forward = Oracle(task.parts, forward_only=True)
    for tracer in (forward, Resized(forward, (16, 16))):
        with pytest.raises(ValueError, match="traces forward in time only") as error:
            score(task, ZeroMotion(), tracer)
        assert "query_mode=first" in str(error.value) and len(str(error.value).splitlines()) == 1
    for mode in ("first", "cfg"):
        task = TapVid(path, seed=0, query_mode=mode)
        assert score(task, Oracle(task.parts, forward_only=True))[0].epe <= 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_queries_that_are_given_stand_where_they_are_given(mode, tmp_path):
    task = TapVid(write_kubric(tmp_path / "k"), seed=0, dataset="kubric", query_mode=mode)
    video = task.parts.videos[0]
    if mode == "cfg":  # asks from every visible frame, as everywhere
        assert len(video.queries) > 3 and set(video.gap.tolist()) == {5}
        return
    assert video.queries.frame.tolist() == [3, 5, 2]
    frames = {3: 12 - 4, 5: 12 - 6, 2: 12 - 3} if mode == "first" else dict.fromkeys((2, 3, 5), 11)
    assert len(video) == sum(frames.values())
    part = task.parts[0]
    q = task.parts.asked(0).q
    row = [3, 5, 2].index(q)
    stored = task.parts.file[0]
    # 0.25 px beside the track, as the file says
    torch.testing.assert_close(part.points[0, 0], stored.points[row, q] + 0.25)
    (row_,) = score(task, Oracle(task.parts))
    assert row_.epe <= 1e-4 and row_.scores["aj"] == 1.0
    assert "given with the data" in task.about()["queries"]


def test_frames_cannot_be_thinned_under_given_queries(tmp_path):
    with pytest.raises(ValueError, match=r"task\.every=2 would drop frames"):
        TapVid(write_kubric(tmp_path / "k"), seed=0, dataset="kubric", every=2)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"query_mode": "last"}, "first, strided, cfg"),
        ({"query_mode": "cfg", "every": 2}, r"task\.query_mode=cfg asks 5 frames on"),
    ],
)
def test_a_mode_that_makes_no_sense_is_refused(options, sentence, path):
    with pytest.raises((ValueError, TypeCheckError), match=sentence):
        TapVid(path, seed=0, **options)


def test_cfg_needs_six_frames(tmp_path):
    path = write_tracks(tmp_path / "a.pkl", [fake_track()])
    with pytest.raises(ValueError, match=r"task\.query_mode=cfg\); there is nothing to score"):
        TapVid(path, seed=0, query_mode="cfg")
