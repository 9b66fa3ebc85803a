"""The judge of our scores must see a figure that is off, wherever it stands."""

import json
import shutil

import numpy as np
import pytest

from benchmarks import claims_benchmarks, referee
from benchmarks.claim import NotMeasuredError

PRINTED = """
tracer (px)   EPE   95 %
dis@native    1.0   0-2

every valid pixel of 2 pairs, 100 pixels; errors in px as stored
mean over pairs   EPE   <1px   <3px   <5px  Fl-all %  WAUC %  s0-10
dis@native      2.000  0.100  0.200  0.300     15.00   35.00   1.00
pooled over pixels   EPE   <1px   <3px   <5px  Fl-all %
dis@native         9.000  0.100  0.200  0.300     99.00
dis@native, pair by pair   EPE   <1px  Fl-all %  WAUC %  s0-10
first                    1.500  0.500     10.00   30.00      -
second                   2.500  0.500     20.00   40.00      -
written: somewhere
"""


def figures(**off):
    first = {"epe": 1.5, "flall": 10.0, "wauc": 30.0}
    second = {"epe": 2.5, "flall": 20.0, "wauc": 40.0}
    return {"first": first, "second": second | off}


def test_printed_rows_that_are_the_referees_agree():
    found = referee.compare_printed(PRINTED, figures())
    assert found.value == 0
    assert found.note == "2 pairs; means EPE 2.000 px, Fl-all 15.00 %, WAUC 35.00 %"


@pytest.mark.parametrize("name", ["epe", "flall", "wauc"])
def test_a_printed_figure_that_is_off_is_seen(name):
    theirs = figures()["second"][name] + 0.5
    assert referee.compare_printed(PRINTED, figures(**{name: theirs})).value == 0.5


def test_a_mean_that_is_off_is_seen_too():
    assert referee.compare_printed(PRINTED.replace("35.00", "35.25"), figures()).value == 0.25


@pytest.fixture
def own_referee(shared_root, tmp_path, monkeypatch):
    """A copy of the shared cases that may be changed."""
    copied = shutil.copytree(shared_root / "golden" / "referee", tmp_path / "referee")
    monkeypatch.setenv("LRAS_REFEREE", str(copied))
    return copied


@pytest.mark.shared
def test_a_figure_of_tracks_that_is_off_is_seen(own_referee):
    assert referee.worst_track_difference().value < 1e-6
    path = own_referee / "tapvid_strided_2.npz"
    saved = dict(np.load(path))
    expected = json.loads(str(saved["expected"]))
    expected["jaccard_4"] += 0.01
    np.savez(path, **saved | {"expected": json.dumps(expected)})
    found = referee.worst_track_difference()
    assert found.value == pytest.approx(0.01)
    assert "3 cases" in found.note and "jaccard_4 of tapvid_strided_2" in found.note


@pytest.mark.shared
def test_a_figure_of_flow_that_is_off_is_seen(own_referee):
    path = own_referee / "flow_expected.json"
    expected = json.loads(path.read_text())
    still = expected["middlebury_rubberwhale"]["zero"]
    kept = {"middlebury_rubberwhale": {"zero": still}}
    still["s0_10"] += 1.0
    still["n_bad"] += 7
    path.write_text(json.dumps(kept))
    assert referee.worst_flow_difference().value == pytest.approx(1, abs=1e-4)
    assert referee.worst_outlier_count().value == pytest.approx(7, abs=1)
    path.write_text(json.dumps(kept | {"_versions": {"opencv-python-headless": "3.9.1"}}))
    with pytest.raises(NotMeasuredError, match="not the referee's"):
        referee.worst_flow_difference()


def test_a_folder_that_is_not_there_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("LRAS_FLOW_GT", str(tmp_path / "nowhere"))
    with pytest.raises(NotMeasuredError, match="set LRAS_FLOW_GT"):
        referee.shared("LRAS_FLOW_GT", "data", "flow_gt")


def test_a_floor_that_is_off_is_seen(monkeypatch):
    rows = [{"ad_px": 1.0, "expected_ad_px": 1.25}, {"ad_px": 2.0, "expected_ad_px": 2.0}]
    monkeypatch.setattr(claims_benchmarks, "floor_rows", lambda: rows)
    assert claims_benchmarks.worst_floor("ad_px").value == 0.25


def test_every_result_file_has_a_command_and_no_two_promises_one_name():
    claims = claims_benchmarks.CLAIMS
    assert len({claim.what for claim in claims}) == len(claims)
    assert {claim.result for claim in claims if claim.result} <= set(claims_benchmarks.COMMANDS)
