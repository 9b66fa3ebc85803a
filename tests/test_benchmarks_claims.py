"""The judge of our promises: it must not pass what was not measured, nor hide what failed."""

import json
import math
import shutil
import subprocess
import sys

import pytest

from benchmarks import claims, claims_main, exact, official_convert
from benchmarks.claim import Claim, Figure, NotMeasuredError, Target, judge
from benchmarks.result_file import (
    CANNOT_MEASURE_HERE,
    KEYS,
    ROOT,
    figures_of,
    read_result,
    run_again,
    write_result,
)

GOOD = {
    "figures": {"epe_px": {"kl": 1.0, "zero_motion": 4.0}},
    "command": "python -c pass",
    "git_sha": "0" * 40,
    "date": "2026-01-01T00:00:00+00:00",
    "machine": "two cores",
    "seeds": [0],
}


AT_MOST = Target("<=", 0.4)


def promise(measure, target=AT_MOST, result=""):
    return Claim(what="a promise", target=target, measure=measure, result=result)


def from_folder(folder, name="x.json"):
    """A promise that x.json in this folder holds a small enough ratio."""

    def measure():
        return claims_main.epe_ratio(read_result(name, folder)["figures"])

    return promise(measure, result=name)


def save(folder, result, name="x.json"):
    (folder / name).write_text(json.dumps(result))


@pytest.mark.parametrize(
    "compare, value, word",
    [
        ("<=", 0.4, "PASS"),
        ("<=", 0.41, "FAIL"),
        ("<", 0.4, "FAIL"),
        (">=", 0.4, "PASS"),
        (">", 0.4, "FAIL"),
        ("==", 0.4, "PASS"),
        ("==", 0.5, "FAIL"),
        ("<=", math.nan, "FAIL"),
        (">=", math.inf, "FAIL"),
        ("<=", -math.inf, "FAIL"),
    ],
)
def test_a_figure_is_judged_by_its_target(compare, value, word):
    assert judge(promise(lambda: Figure(value), Target(compare, 0.4))).word == word


def test_an_unknown_comparison_is_refused():
    with pytest.raises(ValueError, match="is none of"):
        Target("=<", 1)


def test_a_promise_that_breaks_down_fails_with_the_reason():
    def measure():
        raise KeyError("epe_px")

    verdict = judge(promise(measure))
    assert verdict.word == "FAIL"
    assert "KeyError: 'epe_px'" in str(verdict)


def test_an_absent_figure_is_not_measured_and_says_why():
    def measure():
        raise NotMeasuredError("no test of it yet")

    assert str(judge(promise(measure))).startswith("NOT MEASURED")
    assert "(no test of it yet)" in str(judge(promise(measure)))


def test_a_line_holds_verdict_what_figure_and_target():
    line = str(judge(promise(lambda: Figure(0.25, "1 px of 4 px"))))
    assert " ".join(line.split()) == "PASS a promise 0.25 <= 0.4 (1 px of 4 px)"


def test_an_absent_result_file_is_not_measured(tmp_path):
    assert judge(from_folder(tmp_path)).word == "NOT MEASURED"


def test_a_result_file_that_meets_the_target_passes(tmp_path):
    save(tmp_path, GOOD)
    verdict = judge(from_folder(tmp_path))
    assert (verdict.word, verdict.figure) == ("PASS", "0.25")


def test_a_result_file_that_misses_the_target_fails(tmp_path):
    save(tmp_path, GOOD | {"figures": {"epe_px": {"kl": 3.0, "zero_motion": 4.0}}})
    assert judge(from_folder(tmp_path)).word == "FAIL"


@pytest.mark.parametrize("key", KEYS)
def test_a_result_without_provenance_fails(tmp_path, key):
    save(tmp_path, {k: v for k, v in GOOD.items() if k != key})
    verdict = judge(from_folder(tmp_path))
    assert verdict.word == "FAIL"
    assert f"lacks {key}" in verdict.note


def test_a_broken_result_file_fails(tmp_path):
    (tmp_path / "x.json").write_text('{"figures": ')
    verdict = judge(from_folder(tmp_path))
    assert verdict.word == "FAIL"
    assert "--rerun" in verdict.note


def test_a_written_result_reads_back_whole(tmp_path):
    path = write_result("x.json", {"minutes": 2.5}, "python x.py", [0, 1], tmp_path)
    result = read_result("x.json", tmp_path)
    assert set(result) == set(KEYS)
    assert (result["figures"], result["seeds"]) == ({"minutes": 2.5}, [0, 1])
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_result(tmp_path):
    write_result("x.json", {"minutes": 2.5}, "python x.py", [0], tmp_path)
    with pytest.raises(TypeError):
        write_result("x.json", {"minutes": object()}, "python x.py", [0], tmp_path)
    assert read_result("x.json", tmp_path)["figures"] == {"minutes": 2.5}


@pytest.mark.parametrize(
    "figures, status", [([0.1, 0.2], 0), ([0.1, 0.5], 1), ([None, 0.1], 0), ([None, None], 0)]
)
def test_only_a_fail_makes_the_exit_status_1(figures, status, capsys):
    def measure(value):
        if value is None:
            raise NotMeasuredError("later")
        return Figure(value)

    lines = [promise(lambda value=value: measure(value)) for value in figures]
    assert claims.report(lines, {}) == status
    assert len(capsys.readouterr().out.splitlines()) == len(figures) + 1


def write_a_result(folder, kl, name="x.json"):
    """The command of a measurement that takes no time."""
    result = GOOD | {"figures": {"epe_px": {"kl": kl, "zero_motion": 4.0}}}
    script = folder / "measure.py"
    script.write_text(
        f"from pathlib import Path\nPath({str(folder / name)!r}).write_text({json.dumps(result)!r})"
    )
    return f"python {script}"


def test_rerun_measures_again_with_the_recorded_command(tmp_path, capsys):
    save(tmp_path, GOOD | {"command": write_a_result(tmp_path, kl=3.0)})
    assert claims.report([from_folder(tmp_path)], {}, folder=tmp_path) == 0
    assert claims.report([from_folder(tmp_path)], {}, again=True, folder=tmp_path) == 1
    assert "0.75" in capsys.readouterr().out


def test_rerun_measures_a_first_time_with_the_command_of_the_list(tmp_path):
    commands = {"x.json": write_a_result(tmp_path, kl=1.0)}
    assert claims.report([from_folder(tmp_path)], commands, again=True, folder=tmp_path) == 0
    assert (tmp_path / "x.json").is_file()


def test_rerun_runs_the_command_of_a_file_once_for_all_its_promises(tmp_path, capsys):
    save(tmp_path, GOOD | {"command": write_a_result(tmp_path, kl=1.0)})
    claims.report([from_folder(tmp_path)] * 3, {}, again=True, folder=tmp_path)
    assert capsys.readouterr().err.count("measuring x.json") == 1


def test_rerun_that_fails_is_a_fail_and_keeps_the_old_file(tmp_path, capsys):
    save(tmp_path, GOOD | {"command": 'python -c "import sys; sys.exit(3)"'})
    assert claims.report([from_folder(tmp_path)], {}, again=True, folder=tmp_path) == 1
    assert "ended with status 3" in capsys.readouterr().out
    assert read_result("x.json", tmp_path)["figures"] == GOOD["figures"]


def test_rerun_of_what_cannot_be_measured_here_says_so_and_is_no_fail(tmp_path, capfd):
    words = "import sys; print('first', file=sys.stderr); print('no room', file=sys.stderr)"
    save(tmp_path, GOOD | {"command": f'python -c "{words}; sys.exit(77)"'})
    assert claims.report([from_folder(tmp_path)], {}, again=True, folder=tmp_path) == 0
    said = capfd.readouterr()
    assert said.out.startswith("NOT MEASURED") and "(no room)" in said.out
    assert said.err.endswith("first\nno room\n")  # what a command says is still to be seen
    assert read_result("x.json", tmp_path)["figures"] == GOOD["figures"]


def test_converting_without_room_on_the_disk_is_not_measured_and_any_error_fails(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["official_convert.py", "--scratch", str(tmp_path)])
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    assert official_convert.main() == CANNOT_MEASURE_HERE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("skipped: two copies of 14.1 GB do not fit below")
    assert "1.0 GB left" in line and "pass --scratch DIR" in line

    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 10**12))
    monkeypatch.setattr(official_convert, "build", lambda *_: int("no number"))
    with pytest.raises(ValueError, match="no number"):
        official_convert.main()


def test_rerun_with_no_command_known_is_a_fail(tmp_path, capsys):
    assert claims.report([from_folder(tmp_path)], {}, again=True, folder=tmp_path) == 1
    assert "nothing says how to measure x.json" in capsys.readouterr().out


def test_a_command_that_writes_no_result_is_found_out(tmp_path):
    save(tmp_path, GOOD)
    with pytest.raises(RuntimeError, match=r"did not write x\.json"):
        run_again("python -c pass", tmp_path / "x.json")


def test_a_command_stops_at_its_first_failing_step(tmp_path):
    touch = f"python -c \"open({str(tmp_path / 'ran')!r}, 'w')\""
    with pytest.raises(RuntimeError, match="status 1"):
        run_again(f'python -c "raise SystemExit(1)" && {touch}', tmp_path / "x.json")
    assert not (tmp_path / "ran").exists()


def test_a_command_that_cannot_be_run_is_one_clear_error(tmp_path):
    with pytest.raises(RuntimeError, match="no-such-program"):
        run_again("no-such-program --at-all", tmp_path / "x.json")


def test_an_unknown_name_is_one_sentence_and_exit_status_1(capsys):
    assert claims.main(["nope"]) == 1
    assert (
        "No promises are named 'nope'; type one of: benchmarks, data, engine, main, "
        in capsys.readouterr().err
    )


def test_the_script_lists_the_promises_from_any_folder(tmp_path):
    words = [sys.executable, str(ROOT / "benchmarks" / "claims.py"), "main", "--list"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(claims_main.CLAIMS)


def test_promises_of_the_main_job_are_told_apart():
    whats = [claim.what for claim in claims_main.CLAIMS]
    assert len(set(whats)) == len(whats)
    files = {claim.result for claim in claims_main.CLAIMS if claim.result}
    assert files == {
        *(f"easy_seed{seed}.json" for seed in range(3)),
        *("hard.json", "real_video.json", "suite_times.json"),
    }


def test_the_weakest_control_is_the_smallest_and_nan_never_hides():
    epe = {"zero_motion": 4.0, "untrained": 4.4, "random_point": 3.2, "zero_amplitude": 4.0}
    assert claims_main.weakest_control({"epe_px": epe}).value == pytest.approx(0.8)
    assert math.isnan(claims_main.weakest_control({"epe_px": epe | {"untrained": math.nan}}).value)


def test_a_missing_or_nan_tracer_does_not_count_as_in_the_table():
    read = claims_main.in_table("dis", "kl", "rgb")
    assert read({"epe_px": {"dis": 1.0, "kl": math.nan}}).value == 1


def test_the_difference_to_rgb_is_judged_by_the_low_end_of_its_interval():
    figure = claims_main.rgb_behind({"rgb_minus_kl_ci95_px": [-0.1, 0.5]})
    assert not Target(">", 0).met_by(figure.value)


def test_figures_of_an_evaluation_carry_the_names_that_promises_read():
    names = ("zero_motion", "dis", "best_translation", "nearest_patch_color")
    paired = {"name": "kl", "interval": [0.1, 0.5]}
    results = {
        "tracers": [
            {"name": "kl", "epe": 1.0, "target_revealed_share": 0.01},
            {"name": "rgb", "epe": 1.5, "paired_vs": paired},
            *({"name": name, "epe": 4.0} for name in names),
        ],
        "controls": [
            {"name": "untrained", "epe": 4.4},
            {"name": "kl_random_point", "epe": 4.5},
            {"name": "kl_zero_amplitude", "epe": 3.8},
        ],
        "dataset": {"num_points": 300},
    }
    figures = figures_of(results)
    assert figures["num_points"] == 300
    assert claims_main.epe_ratio(figures).value == 0.25
    assert claims_main.weakest_control(figures).value == pytest.approx(0.95)
    assert claims_main.rgb_behind(figures).value == 0.1
    assert (
        claims_main.in_table("dis", "best_translation", "nearest_patch_color")(figures).value == 3
    )
    assert claims_main.plain("target_revealed_share")(figures).value == 0.01


@pytest.mark.parametrize("placement", ["patch", "query"])
def test_the_exact_oracle_is_traced_to_the_cell(placement):
    assert exact.worst_error(placement, 64, 8, 4).value <= 0.5


def test_reveal_masks_are_drawn_without_a_look_at_frame_1():
    assert exact.masks_that_differ().value == 0
