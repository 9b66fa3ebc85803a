"""Parts of what a query mode asks: seeded draws by frame gap, and lists as ZWM's."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_datasets import fake_track, write_tracks
from fake_tracks import Oracle, long_track
from jaxtyping import TypeCheckError

from data.readers.zwm_pairs import read_zwm_pairs, write_zwm_pairs
from tracing.baselines import ZeroMotion
from tracing.benchmarks.tapvid import TapVid
from tracing.benchmarks.track_subset import drawn, quotas
from tracing.benchmarks.zwm_pairs import main, zwm_pairs_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def path(tmp_path):
    videos = {f"v{i}": long_track(12 + i, seed=i, shift=(i % 3, 1)) for i in range(4)}
    return write_tracks(tmp_path / "a.pkl", videos)


def score(task, *tracers):
    return task.score(tracers, task.parts, 0, patch_px=4)


def items_of(task):
    found = []
    for video, kept in zip(task.parts.videos, task.parts.kept, strict=True):
        rows = (kept[video.point], video.queries.frame[video.query], video.frame)
        found += [(video.name, *row) for row in zip(*(r.tolist() for r in rows), strict=True)]
    return found


# --- draws --------------------------------------------------------------------------------------


def test_quotas_are_in_proportion_and_add_up():
    assert quotas({1: 50, 2: 30, 3: 20}, 10) == {1: 5, 2: 3, 3: 2}
    counts = {gap: 7 * gap + 3 for gap in range(-6, 20)}
    counts = {gap: max(count, 1) for gap, count in counts.items()}
    for number in (1, 13, 100, sum(counts.values())):
        told = quotas(counts, number)
        assert sum(told.values()) == number
        for gap, few in told.items():
            assert abs(few - number * counts[gap] / sum(counts.values())) < 1
            assert few <= counts[gap]


def test_a_draw_is_the_same_on_every_machine():
    """Frozen by hand: another Python, numpy or torch must not change what is asked."""
    gaps = [np.array([1, 2, 3, 1, 2, 1]), np.array([], int), np.array([1, 2, 3, 3, 1, 2, 1, 2])]
    masks = drawn(gaps, 5, seed=1)
    assert [mask.nonzero()[0].tolist() for mask in masks] == [[1, 2, 3], [], [5, 6]]
    assert [len(mask) for mask in masks] == [6, 0, 8]


@pytest.mark.parametrize("mode", ["first", "strided", "cfg"])
def test_a_share_holds_its_part_of_every_gap(mode, path):
    whole = TapVid(path, seed=0, query_mode=mode)
    part = TapVid(path, seed=0, query_mode=mode, share=0.3)
    every, some = items_of(whole), items_of(part)
    assert len(some) == round(0.3 * len(every)) and set(some) < set(every)
    assert len(set(some)) == len(some)
    of_all, of_some = (Counter(t - q for _, _, q, t in items) for items in (every, some))
    for gap, count in of_all.items():
        assert abs(of_some[gap] - 0.3 * count) < 1.001
    assert len({name for name, *_ in some}) > 1


def test_the_seed_decides_and_the_fingerprint_says_so(path):
    def draw(seed, **options):
        task = TapVid(path, seed, **(options or {"share": 0.3}))
        return items_of(task), task.about()["subset_fingerprint"]

    assert draw(0) == draw(0)
    assert draw(0)[0] != draw(1)[0] and draw(0)[1] != draw(1)[1]
    number = len(draw(0)[0])
    assert draw(0, num_queries=number) == draw(0)


def test_scores_of_a_subset_are_of_the_drawn_items_alone(path):
    task = TapVid(path, seed=0, share=0.3)
    exact, off = score(task, Oracle(task.parts), Moved(task.parts))
    assert exact.epe <= 1e-4 and exact.scores["aj"] == exact.scores["oa"] == 1.0
    seen = sum(int(video.visible.sum()) for video in task.parts.videos)
    assert off.scores["num_points"] == seen < len(items_of(task))
    # no query frame dilutes AD, and nothing that was not drawn counts
    assert off.epe == off.scores["ad"] == pytest.approx(3.0, abs=1e-4)
    about = task.about()
    assert f"subset of {len(items_of(task))} of" in about["part"] and "seed 0" in about["part"]
    assert "drawn items alone" in about["ad"]


class Moved(Oracle):
    name = "moved"

    def __init__(self, parts):
        super().__init__(parts, px=0.375)


def test_a_video_of_which_nothing_is_drawn_is_counted_as_such(path):
    task = TapVid(path, seed=0, num_queries=1)
    (row,) = score(task, Oracle(task.parts))
    assert row.scores["num_points"] <= 1 and task.about()["num_unscorable"] >= 3
    assert len(task.parts) == 1


def test_all_of_it_is_all_of_it_without_query_frames_in_ad(path):
    whole, all_drawn = TapVid(path, seed=0), TapVid(path, seed=0, share=1.0)
    assert items_of(whole) == items_of(all_drawn)
    (one,), (two,) = (score(task, Moved(task.parts)) for task in (whole, all_drawn))
    assert one.epe == two.epe and one.scores["aj"] == two.scores["aj"]
    assert one.scores["ad"] < two.scores["ad"] == two.epe


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"share": 0.0}, r"task\.share=0\.0"),
        ({"share": 1.5}, r"task\.share=1\.5"),
        ({"share": float("nan")}, r"task\.share=nan"),
        ({"num_queries": 0}, r"task\.num_queries=0"),
        ({"num_queries": 10**6}, r"a subset of 1000000 items"),
        ({"share": 0.5, "num_queries": 3}, "pass one of the two"),
        ({"pairs": "x.json", "share": 0.5}, r"leave out task\.query_mode"),
        ({"pairs": "x.json", "query_mode": "strided"}, r"leave out task\.query_mode"),
        ({"pairs": "x.json", "every": 2}, r"leave out task\.every=2"),
        ({"pairs": "x.json", "points_per_video": 2}, r"leave out task\.points_per_video=2"),
        ({"pairs": "x.json"}, r"x\.json is not there"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_sentence(options, sentence, path):
    with pytest.raises((ValueError, TypeCheckError), match=sentence) as error:
        TapVid(path, seed=0, **options)
    assert len(str(error.value).splitlines()) == 1


# --- lists --------------------------------------------------------------------------------------


def test_a_list_of_everything_scores_as_the_mode_does(path, tmp_path):
    whole = TapVid(path, seed=0)
    write_zwm_pairs(tmp_path / "all.json", zwm_pairs_of(whole, query_frames=True))
    listed = TapVid(path, seed=0, pairs=tmp_path / "all.json")
    assert items_of(listed) == items_of(whole)
    (one,), (two,) = (score(task, Moved(task.parts)) for task in (whole, listed))
    assert one.scores == two.scores
    assert "all.json" in listed.about()["part"] and "all.json" in listed.about()["queries"]


def test_a_list_asks_exactly_its_items_in_whatever_order(path, tmp_path):
    drawn_task = TapVid(path, seed=3, share=0.2)
    pairs = list(zwm_pairs_of(drawn_task))
    write_zwm_pairs(tmp_path / "few.json", reversed(pairs))
    listed = TapVid(path, seed=0, pairs=tmp_path / "few.json")
    assert items_of(listed) == items_of(drawn_task)
    (one,), (two,) = (score(task, ZeroMotion()) for task in (drawn_task, listed))
    assert one.scores == two.scores
    for part, same in zip(listed.parts, drawn_task.parts, strict=True):
        assert part.name == same.name and torch.equal(part.points, same.points)


def test_what_is_written_is_what_zwm_reads(tmp_path):
    videos = {"blackswan": fake_track(), "car-shadow": fake_track((1, 0))}
    path = write_tracks(tmp_path / "a.pkl", videos)
    main(["write", str(path), str(tmp_path / "dataset.json")])
    entries = json.loads((tmp_path / "dataset.json").read_text())
    assert len(entries) == 2 * 8
    by_uid = {entry["uid"]: entry for entry in entries}
    seen = by_uid["car-shadow_000,car-shadow_003,000"]
    assert seen["query_frame_file"] == "car-shadow/video/000.png"
    assert seen["target_frame_file"] == "car-shadow/video/003.png"
    places = [seen[f"{end}_{axis}_raster"] for end in ("query", "target") for axis in "xy"]
    assert places == pytest.approx([4.5 / 32, 5.5 / 24, 7.5 / 32, 5.5 / 24])
    hidden = by_uid["blackswan_000,blackswan_003,002"]
    assert hidden["occluded"] is True and hidden["target_x_raster"] == 0
    assert "blackswan_001,blackswan_002,001" in by_uid  # first seen in frame 1
    back = read_zwm_pairs(tmp_path / "dataset.json")
    assert [pair.uid for pair in back] == [entry["uid"] for entry in entries]


def write_changed(path, pairs_path, change):
    write_zwm_pairs(pairs_path, list(zwm_pairs_of(TapVid(path, seed=0)))[:3])
    entries = json.loads(pairs_path.read_text())
    change(entries)
    pairs_path.write_text(json.dumps(entries))


def uid(entries, value):
    entries[0]["uid"] = value


BAD = {
    "another video": (lambda e: uid(e, "zebra_000,zebra_001,000"), "asks for the video 'zebra'"),
    "two videos": (lambda e: uid(e, "v0_000,v1_001,000"), "with one video"),
    "no uid": (lambda e: uid(e, "v0"), "uid is 'v0'"),
    "a point too many": (lambda e: uid(e, "v0_000,v0_001,099"), "the tracks have 3 points"),
    "a frame too many": (lambda e: uid(e, "v0_000,v0_099,000"), "over 12 frames"),
    "a hidden query": (lambda e: uid(e, "v0_000,v0_001,001"), "whose query is hidden"),
    "twice": (lambda e: e.append(e[0]), "asks v0_000,v0_001,000 twice"),
    "another place": (lambda e: e[0].update(query_x_raster=0.9), "disagree on v0_000"),
    "no number": (lambda e: e[0].update(query_x_raster="a"), "places are"),
    "other visibility": (lambda e: e[0].update(occluded=True), "disagree on v0_000"),
    "a missing key": (lambda e: e[1].pop("occluded"), "entry 1 holds"),
    "no entry": (lambda e: e.clear(), "holds nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_list_that_does_not_fit_is_refused_in_one_sentence(case, path, tmp_path):
    change, sentence = BAD[case]
    write_changed(path, tmp_path / "l.json", change)
    with pytest.raises(ValueError, match=sentence) as error:
        TapVid(path, seed=0, pairs=tmp_path / "l.json")
    assert "l.json" in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_list_that_is_cut_off_is_refused(path, tmp_path):
    (tmp_path / "l.json").write_text('[{"uid": "v0_0')
    with pytest.raises(ValueError, match="no readable JSON"):
        TapVid(path, seed=0, pairs=tmp_path / "l.json")


@pytest.mark.slow
def test_the_command_says_a_mistake_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "tracing.benchmarks.zwm_pairs", "write", "gone.pkl", "o.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: gone.pkl is not there")
    assert len(done.stderr.splitlines()) == 1
