"""A folder of everything that is no video ends with a report."""

import json

import pytest
from fake_datasets import noise_video, write_video
from fake_videos import write_hostile_files
from test_data_ingest import run

from data.ingest import ingest, parse


@pytest.fixture
def hostile(tmp_path):
    expected = write_hostile_files(tmp_path / "videos")
    write_video(tmp_path / "videos" / "zz fine.mkv", noise_video(12, 32, 32))
    return tmp_path / "videos", expected


def command(folder, out):
    return [f"videos={folder}", f"out={out}", "size=32", "clip_frames=4", "workers=0"]


@pytest.mark.timeout(60)
def test_every_hostile_file_is_reported_with_its_reason_and_the_good_one_is_ingested(
    hostile, tmp_path, capsys
):
    folder, expected = hostile
    assert len(expected) >= 20
    status, said = run(capsys, *command(folder, tmp_path / "out"))
    assert status == 0 and "2 training and 1 validation clips" in said
    assert f"{len(expected)} videos skipped" in said and "more in" in said
    skipped = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert skipped.keys() == expected.keys()
    for name, words in expected.items():
        assert words in skipped[name], name


@pytest.mark.timeout(60)
def test_strict_ends_with_status_1(hostile, tmp_path, capsys):
    status, said = run(capsys, *command(hostile[0], tmp_path / "out"), "strict=true")
    assert status == 1 and said.count("ingest:") == 1
    assert not (tmp_path / "out").exists()


def test_a_video_cut_off_in_the_middle_gives_all_of_its_clips_or_none(tmp_path):
    (tmp_path / "videos").mkdir()
    whole = write_video(tmp_path / "whole.mkv", noise_video(40, 32, 32)).read_bytes()
    (tmp_path / "videos" / "half.mkv").write_bytes(whole[: len(whole) // 2])
    cfg = parse(command(tmp_path / "videos", tmp_path / "out"))
    result = ingest(cfg)
    assert 2 <= sum(result.clips.values()) <= 5 and not result.skipped
