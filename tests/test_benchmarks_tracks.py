"""Benchmarks of the scores of tracks: read-out floors, and how fast the scores are."""

import json
import sys

import pytest

from benchmarks import readout_floors, track_metrics

POINTS = 1_000_000


@pytest.mark.parametrize("patch_px", readout_floors.SQUISH)
def test_a_perfect_detector_of_patches_scores_the_floor(patch_px):
    found = readout_floors.squish_floor(patch_px, POINTS, seed=0)
    assert found == pytest.approx(readout_floors.SQUISH[patch_px], abs=0.1)


@pytest.mark.parametrize("windows", readout_floors.ZOOM)
def test_a_perfect_detector_that_zooms_scores_the_floor_of_its_last_window(windows):
    found = readout_floors.zoom_floor(windows, 8, POINTS, seed=0)
    assert found == pytest.approx(readout_floors.ZOOM[windows], abs=0.1)


def test_the_floors_are_printed_and_written(tmp_path, monkeypatch, capsys):
    words = ["readout_floors.py", "--points", "1000", "--json", str(tmp_path / "floors.json")]
    monkeypatch.setattr(sys, "argv", words)
    assert readout_floors.main() == 0
    rows = json.loads((tmp_path / "floors.json").read_text())["figures"]["rows"]
    assert len(rows) == len(readout_floors.SQUISH) + len(readout_floors.ZOOM)
    assert "480x854" in capsys.readouterr().out


def test_scores_are_far_faster_than_the_slow_twin_and_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(track_metrics, "VIDEOS", 150)
    words = ["track_metrics.py", "--quick", "--json", str(tmp_path / "tracks.json")]
    monkeypatch.setattr(sys, "argv", words)
    assert track_metrics.main() == 0
    figures = json.loads((tmp_path / "tracks.json").read_text())["figures"]
    assert figures["videos"] == 15 and figures["largest_difference"] < 1e-12
    assert figures["ratio"] > 2  # under the shape checker, and whatever else runs; alone over 10
    assert "times as fast" in capsys.readouterr().out
