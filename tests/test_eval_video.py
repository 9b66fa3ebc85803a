"""``task=video``: tracks from a clip, an interruption survived, mistakes in one sentence."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_datasets import noise_video, write_video
from hydra import compose, initialize_config_dir
from rich.console import Console

import eval as door
from data.video import VideoFrames
from doors.asking_video import Video, read_queries
from doors.kept import Kept
from tracing.asking import Asking
from tracing.config import Traces

ROOT = Path(__file__).resolve().parents[1]


class Sliding:
    """Moves points by the seed, which says the frame; breaks at call ``breaks_at``."""

    name, needs_model = "sliding", False

    def __init__(self, breaks_at=None):
        self.breaks_at, self.calls = breaks_at, 0

    def __call__(self, frame0, frame1, points, seed=0):
        if self.calls == self.breaks_at:
            raise KeyboardInterrupt
        self.calls += 1
        xy = points + seed / 3
        return Traces(xy=xy, visible=xy[..., 0] < 12, peak_kl=xy.sum(-1).double() / 7)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mkv", noise_video(5, 18, 25), fps=10)


def answered(clip, folder, tracer, **options):
    question = Video(clip, grid_step=6.0, **options)
    how = Asking(block=5, memory=Kept(folder, question.inputs()))
    return question, question.answer(tracer, (4, 4), how)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(clip, tmp_path):
    question, whole = answered(clip, tmp_path / "whole", Sliding())
    assert question.count((4, 4)) == 12 * 4 and whole.points.shape == (12, 5, 2)
    with pytest.raises(KeyboardInterrupt):
        answered(clip, tmp_path / "twice", Sliding(breaks_at=7))
    second = Sliding()
    _, resumed = answered(clip, tmp_path / "twice", second)
    assert second.calls == 12 - 7
    for name in ("points", "visible", "peak_kl"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name))


def test_more_frames_of_the_same_video_go_on_too(clip, tmp_path):
    answered(clip, tmp_path / "answers", Sliding(), max_frames=3)
    tracer = Sliding()
    answered(clip, tmp_path / "answers", tracer)
    assert tracer.calls == 6  # two new frames of three blocks
    with pytest.raises(ValueError, match="fps was None and is 5"):
        answered(clip, tmp_path / "answers", Sliding(), fps=5.0)


def test_files_hold_the_tracks(clip, tmp_path):
    question, result = answered(clip, tmp_path / "answers", Sliding())
    written = question.write(tmp_path, result, Console(quiet=True))
    assert [path.name for path in written] == ["tracks.npz", "tracks.csv", "tracks.mp4"]
    stored = np.load(tmp_path / "tracks.npz")
    assert (stored["tracks"] == result.points.numpy()).all()
    assert (stored["tracks"][:, 0] == stored["queries"]).all()
    assert stored["visible"].shape == stored["peak_kl"].shape == (12, 5)
    assert stored["time_s"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    with (tmp_path / "tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 and list(rows[0]) == ["point", "frame", "time_s", "x", "y", "visible"]
    row = rows[7]  # point 1, frame 2
    assert (row["point"], row["frame"], row["time_s"]) == ("1", "2", "0.200000")
    assert [float(row["x"]), float(row["y"])] == pytest.approx(result.points[1, 2], abs=1e-4)
    assert int(row["visible"]) == int(result.visible[1, 2])
    overlay = VideoFrames(tmp_path / "tracks.mp4", None)
    assert overlay.fps == 10 and [tuple(f.shape) for f in overlay] == [(3, 18, 26)] * 5


@pytest.mark.parametrize(
    "text, points",
    [
        ("3,4\n5.5,6\n", [[3, 4], [5.5, 6]]),
        ("x,y\n3,4\n", [[3, 4]]),
        ("name,y,x\na,4,3\n\nb,6,5\n", [[3, 4], [5, 6]]),
        ("\ufeffX, Y\n3, 4\n", [[3, 4]]),
    ],
)
def test_queries_are_read_from_a_csv(text, points, tmp_path):
    (tmp_path / "q.csv").write_text(text, encoding="utf-8")
    assert read_queries(tmp_path / "q.csv").tolist() == points


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", r"q\.csv holds no query"),
        ("x,y\n", r"q\.csv holds no query"),
        ("a,b\n1,2\n", r"names its columns a, b; name two of them x and y"),
        ("x,y\n1,2\n3\n", r"line 3: '3' is not x,y"),
        ("1,2\n3,four\n", r"line 2: '3,four' is not x,y"),
        ("1,nan\n", r"line 1: '1,nan' is not x,y|names its columns"),
    ],
)
def test_a_csv_without_queries_is_refused(text, sentence, tmp_path):
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_queries(tmp_path / "q.csv")


def test_bad_input_is_refused_before_anything_is_asked(clip, tmp_path):
    (tmp_path / "q.csv").write_text("3,4\n30,4\n")
    with pytest.raises(ValueError, match=r"q\.csv: query 1 is at x=30, y=4, outside .* 25x18"):
        Video(clip, queries=tmp_path / "q.csv")
    with pytest.raises(ValueError, match=r"none\.csv is not a file"):
        Video(clip, queries=tmp_path / "none.csv")
    one = write_video(tmp_path / "one.mkv", noise_video(1, 16, 16))
    with pytest.raises(ValueError, match=r"one\.mkv has one frame, and tracks need two"):
        Video(one)
    with pytest.raises(ValueError, match="max_frames=1"):
        Video(clip, max_frames=1)
    with pytest.raises(ValueError, match="task=video needs a video"):
        Video(None)
    with pytest.raises(ValueError, match=r"gone\.mp4 is not a file"):
        Video(tmp_path / "gone.mp4")


def test_the_door_leaves_tracks_and_how_they_came_about(clip, tmp_path):
    words = [f"task.path={clip}", "task.grid_step=8", "task.back=true", "task.max_frames=4"]
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        cfg = compose("eval", ["task=video", "tracer=zero_motion", *words])
    door.run(cfg, tmp_path, Console(quiet=True))
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["num_points"], results["num_frames"], results["fps"]) == (6, 4, 10)
    assert results["mean_motion_px"] == 0 and results["visible_share"] == 1
    assert results["files"] == ["tracks.npz", "tracks.csv", "tracks.mp4"]
    stored = np.load(tmp_path / "tracks.npz")
    assert (stored["return_px"] == 0).all() and "peak_kl" not in stored
