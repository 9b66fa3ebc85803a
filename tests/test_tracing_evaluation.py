"""What an evaluation says of itself: its stamp, its best and worst cases, its files."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.test_tracing_remembered import Guess, part
from tests.test_tracing_report import results, row, tracks
from tracing.benchmarks.base import evaluate
from tracing.benchmarks.evaluation import write_evaluation
from tracing.benchmarks.pictures import case_pictures, cases
from tracing.benchmarks.published import ALIASES, PUBLISHED
from tracing.benchmarks.stamp import data_files, protocol_id, stamp_of

UNITS = ["goat/0", "goat/1", "cow/0", "dog", "emu"]
PLACES = [(number, 0, name.split("/")[0]) for number, name in enumerate(UNITS)]


def with_errors(errors):
    """A row of five frame pairs with these errors, one point each."""
    parts = [part(name, number, points=1) for number, name in enumerate(UNITS)]
    (made,) = evaluate([Guess()], parts, 0, patch_px=2)
    return replace(made, errors=torch.tensor(errors, dtype=torch.float64)), parts


def test_cases_are_the_best_the_median_and_the_worst_unit():
    found = {case.which: case for case in cases(with_errors([1.0, 9, 3, 7, 2])[0], PLACES)}
    assert {which: case.unit for which, case in found.items()} == {
        "best": "emu", "median": "cow", "worst": "dog",
    }  # fmt: skip
    assert found["worst"].epe == 7 and found["worst"].frame_pair == 3
    goat = next(cases(with_errors([1.0, 2, 9, 9, 9])[0], PLACES))
    assert (goat.which, goat.unit, goat.epe) == ("best", "goat", 1.5) and goat.frame_pair in (0, 1)


def test_few_units_are_shown_once_each():
    made, _ = with_errors([1.0, 1, 3, 3, 3])
    both = [(n, 0, "goat" if n < 2 else "cow") for n in range(5)]
    assert [(c.which, c.unit) for c in cases(made, both)] == [("best", "goat"), ("worst", "cow")]
    one = [(n, 0, "goat") for n in range(5)]
    assert [(c.which, c.unit) for c in cases(made, one)] == [("best", "goat")]


def test_a_unit_without_a_scored_point_is_no_case():
    made, parts = with_errors([1.0, 9, 3, 7, 2])
    kept = made.frame_pair != 4
    fields = ("points", "xy", "target", "errors", "frame_pair")
    made = replace(made, **{name: getattr(made, name)[kept] for name in fields})
    assert {case.unit for case in cases(made, PLACES)} == {"cow", "goat", "dog"}
    pictures = case_pictures(made, parts, PLACES)
    assert list(pictures) == ["case_best", "case_median", "case_worst"]
    assert pictures["case_best"][0].startswith("Best of 3 by EPE of guess: cow, 3.00 px as stored")


def test_the_stamp_says_what_figures_depend_on():
    def stamp(given, tracer):
        more = {"data": [], "wall_seconds": 2.0, "points_per_second": {}, "per_point": {}}
        return stamp_of(given, tracer=tracer, **more)

    how = {"tracer_config": {"num_masks": 8, "reveal_ratio": 0.25, "read_out": "all"}}
    how |= {"zoom": {"scales": 3}, "fingerprint": "abc"}
    given = results(protocol=how)
    given["provenance"] |= {"seed": 4, "git_sha": "123"}
    ours, theirs = stamp(given, "kl"), stamp(given, "dis")
    assert (ours["masks"], ours["scales"], ours["reveal_ratio"]) == (8, 3, 0.25)
    assert theirs["masks"] is None and theirs["scales"] is None
    assert ours["protocol_id"] == "synthetic/64x48" and ours["query_mode"] is None
    assert ours["seed"] == 4 and ours["git_sha"] == "123" and ours["checkpoint"] == "abc"
    assert ours["coverage"] == 1 and ours["floor"] == 0.625
    occlusion = {"rule": "peak", "thresholds": [0.1, 0.2], "split": "every second video"}
    given = tracks() | {"provenance": given["provenance"]}
    given["tracers"][0] |= {"occlusion": occlusion}
    ours = stamp(given, "kl")
    assert ours["occlusion_threshold"] == [0.1, 0.2]
    assert ours["occlusion_split"] == "every second video" and ours["num_videos"] == 3


@pytest.mark.parametrize(
    "mode, size, said",
    [("cfg", [256, 256], "tapvid/cfg/256x256"), (None, None, "tapvid/native")],
)
def test_a_protocol_has_a_short_name(mode, size, said):
    dataset = {"resolution_hw": size} | ({"query_mode": mode} if mode else {})
    assert protocol_id("tapvid", dataset) == said


def test_data_are_hashed_by_content_or_by_names_and_sizes(tmp_path):
    file, folder = tmp_path / "a.pkl", tmp_path / "pairs"
    file.write_bytes(b"tracks")
    (said,) = data_files({"path": str(file)})
    expected = hashlib.sha256(b"tracks").hexdigest()
    assert said == {"file": "a.pkl", "sha256": expected, "of": "content"}
    folder.mkdir()
    (folder / "x.png").write_bytes(b"12")
    before = data_files({"root": str(folder)})
    assert before == data_files({"root": str(folder)}) and before[0]["of"] == "names and sizes"
    (folder / "x.png").write_bytes(b"123")
    assert data_files({"root": str(folder)}) != before
    assert data_files({"scene": {}}) == []


def test_published_figures_are_whole_and_of_known_data_sets():
    for one in PUBLISHED:
        assert one.dataset in ALIASES and one.source and one.frames in ("two", "whole video")
        assert one.scores and set(one.scores) <= set(one.columns)
        assert all(np.isfinite(value) and 0 < value <= 100 for value in one.scores.values())
        assert (one.frames == "two") or one.differs
    named = {(o.method, o.dataset, o.mode, o.resolution, o.source): o for o in PUBLISHED}
    assert len(named) == len(PUBLISHED)
    bar = named["Opt-CWM", "davis", "first", "not stated", "Opt-CWM paper, Table 1"]
    assert list(bar.scores.values()) == [47.53, 8.73, 64.83, 80.87, 60.74]


def test_results_that_break_the_schema_are_not_written(tmp_path):
    made, _ = with_errors([1.0, 9, 3, 7, 2])
    with pytest.raises(ValueError, match=r"results\.dataset\.num_pairs is 'few'"):
        broken = results()
        broken["dataset"]["num_pairs"] = "few"
        write_evaluation(tmp_path, broken, [made], [], {}, report=True)
    assert not (tmp_path / "results.json").exists()
    given = results(tracers=[row("kl", 1.0, ratio_to_zero=float("nan"))])
    write_evaluation(tmp_path, given, [made], [], {}, report=True)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["tracers"][0]["ratio_to_zero"] is None
    assert {"report.html", "report.md", "table.txt"} <= {path.name for path in tmp_path.iterdir()}
