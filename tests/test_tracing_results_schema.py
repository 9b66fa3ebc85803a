"""One schema for results: what breaks it is named, and what may differ between runs is declared."""

import json
from copy import deepcopy

import pytest

from tests.test_tracing_report import DENSE, results, row, tracks
from tracing.results_schema import SCHEMA, VOLATILE, check_results, read_results, stable


def test_results_of_every_kind_follow_the_schema():
    check_results(results())
    check_results(tracks())
    check_results(results(tracers=[row("dis", 1.0, dense=DENSE, aj=0.5, of1=None, jaccard_16=1)]))
    check_results(json.loads(json.dumps(results(curve=[{"step": 0, "epe": 1.0, "stage": 3}]))))


BROKEN = {
    "results.tracers[1].epe is 'far', not int or float": lambda r: r["tracers"][1].update(
        epe="far"
    ),
    "results.tracers[0].epe is nan": lambda r: r["tracers"][0].update(epe=float("nan")),
    "results.tracers[2] lacks median": lambda r: r["tracers"][2].pop("median"),
    "results.tracers[0].seconds is None": lambda r: r["tracers"][0].update(seconds=None),
    "results.tracers[0].epe_interval holds 3": lambda r: r["tracers"][0].update(
        epe_interval=[1, 2, 3]
    ),
    "results.tracers[0].paired_vs.excludes_zero is 1": lambda r: r["tracers"][0][
        "paired_vs"
    ].update(excludes_zero=1),
    "results.dataset.num_points is True": lambda r: r["dataset"].update(num_points=True),
    "results.dataset lacks resolution_hw": lambda r: r["dataset"].pop("resolution_hw"),
    "results.coverage lacks of_units": lambda r: r["coverage"].pop("of_units"),
    "results lack stamp, floor": lambda r: (r.pop("floor"), r.pop("stamp")),
    "results.controls is {}, not a list": lambda r: r.update(controls={}),
    "results.tracers[0].dense lacks pairs": lambda r: r["tracers"][0].update(dense={}),
    "results.videos[0].scores.kl.epe is [], ": lambda r: r.update(
        videos=[{"name": "a", "num_points": 1, "scores": {"kl": {"epe": []}}}]
    ),
    "results follow schema 1 and": lambda r: r.update(schema=1),
    "of older code lack schema": lambda r: r.pop("schema"),
}


@pytest.mark.parametrize("said", BROKEN)
def test_what_breaks_the_schema_is_named(said):
    broken = deepcopy(results())
    BROKEN[said](broken)
    with pytest.raises(ValueError) as error:
        check_results(broken)
    assert said in str(error.value) and str(error.value).count(". ") == 0


def test_answers_to_a_question_without_truth_are_told_from_results():
    with pytest.raises(ValueError, match="of a question without ground truth lack"):
        check_results({"task": "pair", "tracer": "dis", "files": []})


def test_a_folder_or_a_file_is_read_and_checked(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results()))
    assert read_results(tmp_path) == read_results(tmp_path / "results.json") == results()
    (tmp_path / "results.json").write_text('{"schema": 2,')
    with pytest.raises(ValueError, match=r"results\.json: Expecting"):
        read_results(tmp_path)
    with pytest.raises(ValueError, match=r"no results\.json in .*none; pass a folder"):
        read_results(tmp_path / "none")


def test_what_is_volatile_is_left_out_and_nothing_else():
    one, other = results(), results()
    for each, value in ((one, 1.0), (other, 2.0)):
        each["stamp"] |= {"wall_seconds": value, "points_per_second": {"kl": value}}
        each["provenance"] |= {"date": str(value), "command": f"eval {value}", "git_sha": "a"}
        each["provenance"]["machine"] = {"cpu": str(value)}
        for line in (*each["tracers"], *each["controls"]):
            line["seconds"] = value
    assert one != other and stable(one) == stable(other)
    assert one["tracers"][0]["seconds"] == 1.0  # a copy
    assert stable(one)["provenance"] == {"git_sha": "a"} and stable(one)["stamp"]["seed"] == 0
    for key in ("epe", "hit", "median"):
        changed = deepcopy(other)
        changed["tracers"][1][key] += 1e-9
        assert stable(one) != stable(changed)
    assert SCHEMA == 2 and all(path.count("*") <= 1 for path in VOLATILE)
