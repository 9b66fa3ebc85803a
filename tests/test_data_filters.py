"""Clips stay inside a shot, move, and never share a frame between the splits."""

import builtins
import json
import sys

import pytest
import torch
from fake_datasets import noise_video, write_video
from fake_videos import shots, write_timed_video
from test_data_ingest import config, samples_of

from data.filters import choose_clips, motion_between, split_tail
from data.ingest import ingest
from data.verify import verify


@pytest.mark.parametrize(
    ("stride", "cuts", "starts", "cut"),
    [
        (4, (), (0, 4, 8), 0),
        (2, (), (0, 2, 4, 6, 8), 0),
        (6, (), (0, 6), 0),
        (4, (5,), (0, 5), 1),
        (4, (2, 6, 9), (2,), 2),
        (1, (7,), (0, 1, 2, 3, 7, 8), 3),
    ],
)
def test_clips_begin_anew_at_every_cut(stride, cuts, starts, cut):
    clips = choose_clips(12, 4, stride, cuts)
    assert (clips.starts, clips.cut) == (starts, cut)


def test_clips_that_hardly_move_are_left_out():
    motion = [0.0, *[9.0] * 4, *[0.0] * 3, *[9.0] * 4]  # from the frame before
    clips = choose_clips(12, 4, 4, (), motion, min_motion=5.0)
    assert (clips.starts, clips.static) == ((0, 8), 1)
    assert choose_clips(12, 4, 4, (), motion, min_motion=9.5).static == 3


def test_a_jump_into_a_clip_is_not_motion_inside_it():
    motion = [0.0] * 8 + [200.0] + [0.0] * 3
    assert choose_clips(12, 4, 4, (), motion, min_motion=5.0).starts == ()


@pytest.mark.parametrize("stride", [1, 3, 4, 7])
@pytest.mark.parametrize("val_fraction", [0.1, 0.5, 0.9])
def test_the_splits_share_no_frame_where_clips_overlap(stride, val_fraction):
    starts = list(range(0, 60, stride))
    train, val = split_tail(starts, 4, val_fraction)
    assert val and set(train) | set(val) <= set(starts)
    frames = [{start + t for start in part for t in range(4)} for part in (train, val)]
    assert not frames[0] & frames[1]
    assert len(val) == min(max(1, round(val_fraction * len(starts))), len(starts) - 1)
    if stride >= 4:
        assert train + val == starts


def test_motion_is_the_mean_absolute_difference():
    before, after = noise_video(2, 5, 7).movedim(1, -1).numpy()
    expected = abs(before.astype(int) - after.astype(int)).mean()
    assert motion_between(before, after) == pytest.approx(expected)


def starts_of(out):
    return sorted(json.loads(s["json"])["start_frame"] for s in samples_of(out / "train"))


def test_no_clip_spans_a_scene_cut(tmp_path):
    pytest.importorskip("scenedetect", reason="PySceneDetect is an optional extra")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "film.mkv", shots([6, 9, 5]))
    common = {"val_fraction": 0.0, "size": 32}
    ingest(config(tmp_path / "videos", tmp_path / "all", **common))
    assert starts_of(tmp_path / "all") == [0, 4, 8, 12, 16]
    result = ingest(config(tmp_path / "videos", tmp_path / "cut", scenes="content", **common))
    assert starts_of(tmp_path / "cut") == [0, 6, 10, 15] and result.cut == 1


def test_no_clip_spans_a_pause_of_the_recording(tmp_path):
    (tmp_path / "videos").mkdir()
    times = [t / 30 for t in range(6)] + [5 + t / 30 for t in range(6)]
    write_timed_video(tmp_path / "videos" / "phone.mkv", noise_video(12, 16, 16), times)
    ingest(config(tmp_path / "videos", tmp_path / "out", val_fraction=0.0))
    assert starts_of(tmp_path / "out") == [0, 6]


def test_static_clips_are_counted_and_left_out(tmp_path):
    (tmp_path / "videos").mkdir()
    still = noise_video(1, 16, 16).expand(8, -1, -1, -1)
    write_video(tmp_path / "videos" / "a.mkv", torch.cat([still, noise_video(8, 16, 16, seed=1)]))
    write_video(tmp_path / "videos" / "b still.mkv", still)
    cfg = config(tmp_path / "videos", tmp_path / "out", val_fraction=0.0, min_motion=20.0)
    result = ingest(cfg)
    assert starts_of(tmp_path / "out") == [8, 12] and result.static == 4
    assert "2 move less than min_motion=20" in result.skipped["b still.mkv"]


def test_a_video_without_motion_is_no_mistake_that_strict_would_stop_at(tmp_path):
    (tmp_path / "videos").mkdir()
    still = noise_video(1, 16, 16).expand(8, -1, -1, -1)
    write_video(tmp_path / "videos" / "a still.mkv", still)
    write_video(tmp_path / "videos" / "b.mkv", noise_video(8, 16, 16))
    cfg = config(tmp_path / "videos", tmp_path / "out", min_motion=20.0, strict=True)
    assert ingest(cfg).clips == {"train": 1, "val": 1}


@pytest.mark.parametrize("stride", [1, 2, 6])
def test_overlapping_and_skipping_clips_hold_their_frames_and_verify(tmp_path, stride):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mkv", noise_video(20, 16, 16))
    out = tmp_path / "out"
    ingest(config(tmp_path / "videos", out, stride=stride, val_fraction=0.2))
    assert starts_of(out)[:2] == [0, stride]
    report = verify(out)
    assert report.samples > 2 and not report.problems


def test_scene_cuts_without_their_library_cost_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"scenes=content needs .*pip install 'scenedetect"):
        ingest(config(tmp_path, tmp_path / "out", scenes="content"))


def test_torchcodec_without_its_libraries_costs_one_sentence(tmp_path, monkeypatch):
    imports = builtins.__import__

    def broken(name, *rest):
        if name.startswith("torchcodec"):
            raise RuntimeError("Could not load libtorchcodec.\nmore lines")
        return imports(name, *rest)

    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(ValueError, match=r"cannot be loaded .Could not load libtorchcodec\.."):
        ingest(config(tmp_path, tmp_path / "out", decoder="torchcodec"))
