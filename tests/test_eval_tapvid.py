"""``eval.py task=tapvid`` from end to end: what it leaves, and bad files at the door."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_datasets import as_jpegs, fake_track, write_tracks
from fake_tracks import write_davis

from lras.checkpoint import save
from tests.tiny_model import tiny_model

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def evaluate(out: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "eval.py", "task=tapvid", f"hydra.run.dir={out}", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    blind = fake_track((1, 0), seed=5)
    blind["occluded"][:, 1:] = True
    videos = [as_jpegs(fake_track((2, 1))), as_jpegs(fake_track((1, 0), seed=3), "bytes"), blind]
    return write_tracks(tmp_path_factory.mktemp("tracks") / "tracks.pkl", videos)


def test_a_baseline_needs_no_checkpoint(tracks, tmp_path):
    done = evaluate(tmp_path / "out", f"task.path={tracks}", "tracer=dis", "report=true")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["name"]: row for row in results["tracers"]}
    assert next(iter(rows)) == "dis@native"
    zero = rows["zero_motion"]
    assert zero["epe"] > zero["ad"] > 0 and zero["epe_interval"] is None
    assert zero["occlusion"] == {"rule": "everything is called visible"}
    assert results["dataset"] == {
        "name": "tracks.pkl", "num_pairs": 13, "num_points": 14, "resolution_hw": [256, 256],
        "num_videos": 3, "num_unscorable": 1, "query_mode": "first",
    }  # fmt: skip
    protocol = results["protocol"]
    assert protocol["query_mode"] == "first" and results["coverage"]["share"] == 1.0
    table = " ".join((tmp_path / "out" / "table.txt").read_text().split())
    assert "Means over videos: 2, without 1 that have nothing to score" in table
    assert "No intervals with so few videos." in table
    assert "video_002" in (tmp_path / "out" / "report.html").read_text()
    for name in ("points.npz", "pictures/arrows_0.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100


def test_a_model_stands_beside_the_baselines_with_its_visibility_cross_fitted(tracks, tmp_path):
    export = save(tiny_model(), tmp_path / "export")
    words = (f"task.path={tracks}", f"ckpt={export}", "tracer.cfg.num_masks=2", "report=true")
    done = evaluate(tmp_path / "out", *words, "task.points_per_video=2")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["name"]: row for row in results["tracers"]}
    assert list(rows)[:2] == ["kl@16x16", "rgb@16x16"]
    assert {"zero_motion", "dis@native", "dis@16x16"} <= set(rows)
    for name in ("kl@16x16", "rgb@16x16"):
        assert rows[name]["occlusion"]["split"] == "every second video"
        assert len(rows[name]["occlusion"]["thresholds"]) == 2
    assert rows["zero_motion"]["paired_vs"]["name"] == "kl@16x16"
    assert rows["zero_motion"]["paired_vs"]["interval"] is None
    assert {row["name"] for row in results["controls"]} == {
        "untrained", "random_point", "zero_amplitude",
    }  # fmt: skip
    assert results["dataset"]["input_hw"] == [16, 16]
    assert results["dataset"]["part"] == "at most 2 points of a video"
    assert set(results["videos"][0]["scores"]) == set(rows)
    assert results["floor"] > 0
    listed = [picture["file"] for picture in results["pictures"]]
    assert sum("kl_map" in name for name in listed) >= 2


def test_a_named_set_in_another_mode_says_both(tmp_path):
    path = write_davis(tmp_path / "set", long=True)
    words = ("tracer=zero_motion", "task.dataset=davis", f"task.path={path.parent}")
    done = evaluate(tmp_path / "out", *words, "task.query_mode=strided", "task.share=0.5")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["dataset"]["name"] == "davis"
    assert results["dataset"]["query_mode"] == "strided"
    assert "subset of" in results["dataset"]["part"] and "published are 30" in str(results)
    scores = results["videos"][0]["scores"]["zero_motion"]
    assert {"epe", "ad_median", "of1", "jaccard_1", "delta_16"} <= set(scores)
    table = " ".join((tmp_path / "out" / "table.txt").read_text().split())
    assert "OF1" in table and "AD: over the drawn items alone" in table


MISTAKES = {
    "a set that is not there": (["task.dataset=davis"], "task.dataset=davis: no task.path"),
    "a shard that is missing": (
        ["task.dataset=robotap", "task.path={folder}"],
        "robotap_split0.pkl",
    ),
    "a file that is cut off": (["task.path={cut}"], "is cut off or damaged"),
    "a mode nobody knows": (["task.path={whole}", "task.query_mode=last"], "first, strided, cfg"),
    "two ways to draw": (
        ["task.path={whole}", "task.share=0.5", "task.num_queries=3"],
        "pass one of the two",
    ),
    "a list that is not there": (["task.path={whole}", "task.pairs=gone.json"], "gone.json is not"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(case, tmp_path):
    words, sentence = MISTAKES[case]
    whole = write_tracks(tmp_path / "whole.pkl", [fake_track()])
    cut = tmp_path / "cut.pkl"
    cut.write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    named = {"whole": whole, "cut": cut, "folder": tmp_path / "empty"}
    words = [word.format(**named) for word in words]
    done = evaluate(tmp_path / "out", "tracer=zero_motion", *words)
    assert done.returncode == 1 and sentence in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


class Runs:
    """Pickled, it would have the reader make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_names_a_foreign_function_runs_and_leaves_nothing(tmp_path):
    path = write_tracks(tmp_path / "a.pkl", [Runs(tmp_path / "ran")])
    done = evaluate(tmp_path / "out", "tracer=dis", f"task.path={path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "mkdir, which is neither" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "ran").exists()


@pytest.mark.shared
@pytest.mark.parametrize("name, zero_px, videos", [("short", 19.79, 7), ("long", 74.48, 8)])
def test_the_shared_files_are_scored_by_baselines(name, zero_px, videos, shared_root, tmp_path):
    path = shared_root / "data" / "tracks" / f"tapvid_pairs_{name}.pkl"
    done = evaluate(tmp_path / "out", f"task.path={path}", "tracer=zero_motion")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["name"]: row for row in results["tracers"]}
    zero, dis = rows["zero_motion"], rows["dis@native"]
    assert zero["epe"] == pytest.approx(zero_px, abs=0.01)
    assert results["dataset"]["num_videos"] == videos
    if name == "short":  # a few frames apart a classical flow finds nearly everything
        assert dis["epe"] < 0.2 * zero["epe"] and dis["delta_avg"] > 0.7
