"""The task on TAP-Vid pickles: its queries, and rows whose every figure is known beforehand."""

import json
import math

import pytest
import torch
from fake_datasets import fake_track, write_tracks
from jaxtyping import TypeCheckError

from data.coords import rescale_points
from data.readers.tapvid import read_tracks
from tests.reference import slow_tracks as slow
from tests.tiny_model import tiny_model
from tracing.baselines import DIS, BestTranslation, ZeroMotion
from tracing.benchmarks import evaluation
from tracing.benchmarks.tapvid import TapVid
from tracing.benchmarks.track_occlusion import halved
from tracing.benchmarks.track_queries import Queries
from tracing.benchmarks.track_videos import VideoTracks
from tracing.config import TracerConfig, Traces
from tracing.kl_tracer import KLTracer

SIZE = (24, 32)
SHIFTS = ((2, 1), (1, 0), (-1, 2))


class Off:
    """Follows a ``fake_track`` and is off by ``px`` in x; how far it moved, it finds by trying.

    Its peak is low where a point is hidden: the last one asked for over a gap of 3 frames. If it
    ``tells``, it calls that point hidden itself.
    """

    needs_model = False

    def __init__(self, px=0.0, name="off", has_peak=False, tells=False):
        self.px, self.name, self.has_peak, self.tells = px, name, has_peak, tells

    def __call__(self, frame0, frame1, points, seed=0):
        ((u, v, gap),) = (
            (u, v, gap)
            for u, v in SHIFTS
            for gap in range(1, 4)
            if torch.equal(frame0.roll((gap * v, gap * u), (2, 3)), frame1)
        )
        xy = points + gap * torch.tensor([u, v]) + torch.tensor([self.px, 0.0])
        peak = torch.full(points.shape[:2], 3.0)
        if gap == 3:
            peak[0, -1] = 1.0
        visible = peak > 2 if self.tells else torch.ones_like(peak, dtype=torch.bool)
        return Traces(xy=xy, visible=visible, peak_kl=peak if self.has_peak else None)


@pytest.fixture
def two_videos(tmp_path):
    videos = {"fast": fake_track((2, 1)), "slow": fake_track((1, 0), seed=3)}
    return write_tracks(tmp_path / "tracks.pkl", videos)


def score(task, *tracers, seed=0, **options):
    return task.score(tracers, task.parts, seed, patch_px=4, **options)


# --- queries -----------------------------------------------------------------------------------


def test_a_point_is_asked_for_from_its_first_visible_frame_to_every_later_one(two_videos):
    track = next(read_tracks(two_videos))
    pairs = list(TapVid(two_videos, seed=0, num_videos=1).parts)
    names = ["000-001", "000-002", "000-003", "001-002", "001-003"]
    assert [pair.name for pair in pairs] == [f"fast/{name}" for name in names]
    assert [pair.points.shape[1] for pair in pairs] == [2, 2, 2, 1, 1]
    late, last = pairs[3], pairs[2]
    assert torch.equal(late.points[0, 0], track.points[1, 1])
    assert torch.equal(late.target[0, 0], track.points[1, 2])
    assert torch.equal(late.frame1[0], track.frames[2].float() / 255)
    assert last.visible.tolist() == [[True, False]]  # point 2 hides in the last frame


def test_points_that_are_never_visible_are_dropped(tmp_path):
    track = fake_track()
    track["occluded"][0] = True
    task = TapVid(write_tracks(tmp_path / "a.pkl", [track]), 0)
    assert task.about()["num_tracks"] == 2
    assert [part.points.shape[1] for part in task.parts] == [1, 1, 1, 1, 1]


def test_parts_are_read_in_any_order_though_one_video_is_open_at_a_time(two_videos):
    task = TapVid(two_videos, seed=0)
    tracks = {track.name: track for track in read_tracks(two_videos)}
    assert len(task.parts) == task.about()["num_pairs"] == 10
    assert task.parts.names_of_parts == [part.name for part in task.parts]
    for index in (9, *range(10)):
        part, name = task.parts[index], task.parts.names_of_parts[index]
        video, frames = name.split("/")
        q, t = map(int, frames.split("-"))
        assert part.name == name
        assert torch.equal(part.frame1[0], tracks[video].frames[t].float() / 255)
        own = [i for i in range(3) if tracks[video].visible[i].int().argmax() == q]
        assert torch.equal(part.points[0], tracks[video].points[own, q])
        assert torch.equal(part.target[0], tracks[video].points[own, t])
    with pytest.raises(IndexError):
        task.parts[10]
    assert "part" not in task.about()


def test_some_videos_alone_are_asked_what_they_are_asked_among_all(two_videos):
    task = TapVid(two_videos, seed=0)
    few = task.only(["slow"])
    assert few.parts.names_of_parts == task.parts.names_of_parts[5:]
    for index, part in enumerate(few.parts):
        same = task.parts[5 + index]
        assert torch.equal(part.frame0, same.frame0) and torch.equal(part.target, same.target)
    (all_of_it,), (alone,) = score(task, ZeroMotion()), score(few, ZeroMotion())
    assert alone.videos == all_of_it.videos[1:] and alone.epe == alone.videos[0]["epe"]
    assert few.about()["part"] == "1 of 2 videos" and "part" not in task.about()
    assert len(task.parts) == 10


def test_a_part_of_a_file_is_a_seeded_draw_and_says_so(two_videos):
    task = TapVid(two_videos, seed=0, num_videos=1, points_per_video=2, every=2)
    part = task.about()["part"]
    assert part == "1 of 2 videos, at most 2 points of a video, one of every 2 frames"
    assert task.about()["num_tracks"] == 2
    # Of four frames 0 and 2 are left. A point first seen in frame 2 has no later one.
    assert {pair.name for pair in task.parts} == {"fast/000-001"}
    track = next(read_tracks(two_videos))
    assert torch.equal(task.parts[0].frame1[0], track.frames[2].float() / 255)

    def draw(seed):
        return TapVid(two_videos, seed, points_per_video=1).parts.kept

    assert draw(4) == draw(4)
    assert len({tuple(int(kept) for kept in draw(seed)) for seed in range(8)}) > 2


# --- scores ------------------------------------------------------------------------------------


def test_a_known_error_gives_known_scores_at_256(two_videos):
    task = TapVid(two_videos, seed=0, num_videos=1)
    (row,) = score(task, Off(px=0.375))  # 0.375 px of 32 are 3 px of 256
    seen, queries = 3 + 2 + 2, 3  # visible frames after the query of points 0, 1 and 2
    assert [row.epe, row.median] == pytest.approx([3.0, 3.0], abs=1e-4)
    assert row.scores["num_points"] == len(row.errors) == seen
    assert row.scores["ad"] == pytest.approx(3.0 * seen / (seen + queries), abs=1e-4)
    assert row.delta_avg == pytest.approx(3 / 5)  # within 4, 8 and 16
    assert row.scores["oa"] == pytest.approx(7 / 8)
    assert row.scores["aj"] == pytest.approx(3 / 5 * 7 / 8)
    assert row.hit == 0.0  # the square of 4 px is 2 to each side


def test_whole_videos_score_what_the_slow_twin_finds(two_videos):
    (zero,) = score(TapVid(two_videos, seed=0), ZeroMotion())
    twins = []
    for track in read_tracks(two_videos):
        query = track.visible.int().argmax(1)
        target = rescale_points(track.points, SIZE, (256, 256))
        pred = target[torch.arange(3), query][:, None].expand(target.shape)
        called = torch.ones_like(track.visible)
        lists = (each.tolist() for each in (pred, target, called, track.visible, query))
        twins.append(slow.video_scores(*lists))
    mean = slow.mean_over_videos(twins)
    for key in ("epe", "ad", "median", "delta_avg", "oa", "aj", "delta_16"):
        assert zero.scores[key] == pytest.approx(mean[key], abs=1e-4)
    assert zero.ratio_to_zero == pytest.approx(1)


def test_rows_are_compared_video_by_video_without_intervals_under_ten(two_videos):
    task = TapVid(two_videos, seed=0)
    near, far = score(task, Off(0.125, "near"), Off(0.5, "far"), paired_with="far")
    assert far.paired_vs is None
    assert near.paired_vs["difference"] == pytest.approx(-3.0, abs=1e-4)
    assert near.paired_vs["interval"] is None and near.epe_interval is None
    assert near.as_dict()["intervals"] is None


def test_ten_videos_have_intervals_over_videos(tmp_path):
    tracks = [fake_track(SHIFTS[i % 3], seed=i) for i in range(10)]
    task = TapVid(write_tracks(tmp_path / "a.pkl", tracks), seed=0)
    zero, off = score(task, ZeroMotion(), Off(0.25), paired_with="off")
    low, high = zero.epe_interval
    each = [video["epe"] for video in zero.videos]
    assert min(each) < low < zero.epe < high < max(each)
    assert off.epe_interval == pytest.approx((2.0, 2.0), abs=1e-4)
    for key in ("epe", "ad", "delta_avg", "aj"):
        each, (least, most) = [video[key] for video in zero.videos], zero.intervals[key]
        assert min(each) <= least < zero.scores[key] < most <= max(each), key
    assert zero.intervals["oa"] == pytest.approx((0.875, 0.875))  # the same in every video
    assert zero.paired_vs["excludes_zero"]
    assert zero.paired_vs["interval"] == pytest.approx([low - 2, high - 2], abs=1e-3)


def test_a_video_with_nothing_to_score_is_counted_and_left_out(tmp_path):
    blind = fake_track((1, 0))
    blind["occluded"][:] = True
    blind["occluded"][:, 0] = False
    alone = TapVid(write_tracks(tmp_path / "one.pkl", [fake_track()]), seed=0)
    both = TapVid(write_tracks(tmp_path / "two.pkl", [fake_track(), blind]), seed=0)
    assert both.about()["num_unscorable"] == 1 and alone.about()["num_unscorable"] == 0
    (one,), (two,) = (score(task, ZeroMotion()) for task in (alone, both))
    assert two.epe == one.epe and two.scores["oa"] == one.scores["oa"]
    assert both.floor(4, TracerConfig(), 4) == alone.floor(4, TracerConfig(), 4)
    results = evaluation.results_of(both, [two], [], 0.0)
    assert results["videos"][1]["scores"]["zero_motion"]["epe"] is None
    assert results["dataset"]["num_videos"] == 2 and results["dataset"]["num_unscorable"] == 1
    json.dumps(results, allow_nan=False)


def test_an_answer_that_is_no_number_ends_the_evaluation_in_one_sentence(two_videos):
    with pytest.raises(ValueError, match="off answers 2 of 2 points of fast/000-001") as error:
        score(TapVid(two_videos, seed=0), Off(px=math.nan))
    assert len(str(error.value).splitlines()) == 1


class Short(ZeroMotion):
    """Loses the last point."""

    name = "short"

    def __call__(self, frame0, frame1, points, seed=0):
        return super().__call__(frame0, frame1, points[:, :-1])


def test_a_tracer_that_loses_a_point_is_refused_in_one_sentence(two_videos):
    with pytest.raises(ValueError, match=r"short answers fast/000-001 .* every query once"):
        score(TapVid(two_videos, seed=0), Short())


# --- visibility --------------------------------------------------------------------------------


def test_peaks_are_cross_fitted_over_halves_of_the_videos(two_videos):
    (row,) = score(TapVid(two_videos, seed=0), Off(has_peak=True))
    assert row.occlusion["thresholds"] == [2.0, 2.0]
    assert row.occlusion["split"] == "every second video"
    assert row.scores["oa"] == 1.0


def test_a_fixed_rule_takes_the_word_of_the_tracer(two_videos):
    task = TapVid(two_videos, seed=0, occlusion="fixed")
    (told,) = score(task, Off(has_peak=True, tells=True))
    (silent,) = score(task, Off(has_peak=True))
    assert told.scores["oa"] == 1.0 and silent.scores["oa"] == pytest.approx(7 / 8)
    assert "occlusion_threshold" in told.occlusion["rule"]
    assert "thresholds" not in told.occlusion


def test_a_tracer_without_peaks_calls_everything_visible(two_videos):
    (row,) = score(TapVid(two_videos, seed=0), Off())
    assert row.occlusion == {"rule": "everything is called visible"}


def video_of(num_points, frames=2):
    """Points queried in frame 0 and asked for in so many later ones."""
    numbers = torch.arange(num_points)
    return VideoTracks(
        name="video",
        queries=Queries(point=numbers, frame=0 * numbers, xy=torch.zeros(num_points, 2)),
        query=numbers.repeat(frames),
        frame=1 + torch.arange(frames).repeat_interleave(num_points),
        target=torch.zeros(num_points * frames, 2),
        visible=torch.ones(num_points * frames, dtype=torch.bool),
        ad_zeros=num_points,
    )


def test_halves_are_whole_videos_that_have_something_to_say():
    silent = video_of(2, frames=0)
    halves, split = halved([video_of(3), silent, video_of(2), video_of(1)])
    assert [half.tolist() for half in halves] == [[False] * 6, [], [True] * 4, [False] * 2]
    assert split == "every second video"
    (half, quiet), split = halved([video_of(4), silent])
    assert half.tolist() == [False, True, False, True] * 2 and split == "every second point"
    assert not len(quiet)
    with pytest.raises(ValueError, match=r"task\.occlusion=fixed"):
        halved([video_of(1)])


def test_a_tracer_that_tells_by_itself_is_taken_at_its_word(two_videos):
    (row,) = score(TapVid(two_videos, seed=0), Off(tells=True))
    assert row.occlusion == {"rule": "as the tracer itself says"} and row.scores["oa"] == 1.0


# --- who takes part, and what is refused -------------------------------------------------------


def test_a_model_is_shown_its_own_size_and_pictures_are_of_every_video(two_videos):
    task = TapVid(two_videos, seed=0, input_px=16)
    names = [
        own.name for each in (DIS(), ZeroMotion(), BestTranslation()) for own in task.adapt(each)
    ]
    assert names == ["dis@native", "dis@16x16", "zero_motion", "best_translation@16x16"]
    parts = list(task.for_model())
    assert [part.name for part in parts] == ["fast/000-003", "slow/000-003"]
    assert parts[0].frame0.shape == (1, 3, 16, 16)


def test_kl_tracing_takes_part_from_end_to_end(two_videos):
    task = TapVid(two_videos, seed=0, input_px=16)
    model = tiny_model().eval()
    (kl,) = task.adapt(KLTracer(model, TracerConfig(num_masks=2)))
    row, zero = score(task, kl, ZeroMotion(), paired_with=kl.name)
    assert row.name == "kl@16x16" and 0 <= row.scores["oa"] <= 1
    assert row.target_revealed_share is not None and zero.target_revealed_share is None
    again, _ = score(task, kl, ZeroMotion(), paired_with=kl.name)
    assert again.scores == row.scores


def test_the_floor_is_zero_for_motion_by_whole_patches_of_the_input(tmp_path):
    whole = TapVid(write_tracks(tmp_path / "a.pkl", [fake_track((4, 4), size=(32, 32))]), 0)
    assert whole.floor(32, TracerConfig(), 32) == pytest.approx(0, abs=1e-4)  # 4 px are 32 of 256
    # at an input of 16 px, 4 px of 32 are 2: half a patch of 4, which is 64 px of 256
    halves = TapVid(tmp_path / "a.pkl", 0, input_px=16)
    assert 16 < halves.floor(4, TracerConfig(), 4) < 33 * 2**0.5


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"path": None}, r"task\.path=FILE\.pkl"),
        ({"every": 0}, r"task\.every=0"),
        ({"num_videos": 0}, r"task\.num_videos=0"),
        ({"points_per_video": -1}, r"task\.points_per_video=-1"),
        ({"occlusion": "guess"}, "cross_fit or fixed"),
        ({"every": 4}, "nothing to score"),
    ],
)
def test_what_leaves_nothing_to_score_is_refused_in_one_sentence(options, sentence, two_videos):
    with pytest.raises((ValueError, TypeCheckError), match=sentence):
        TapVid(**({"path": two_videos, "seed": 0} | options))
