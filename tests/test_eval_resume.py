"""``eval.py`` goes on where it was killed, and in shares, to the results of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

import eval as door
from tests.fake_datasets import fake_track, write_flow_pair, write_tracks
from tracing.benchmarks.remembered import Course
from tracing.results_schema import read_results, stable

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def quickly(monkeypatch):
    """Without pictures, which take longer than all the rest."""
    monkeypatch.setattr(door, "pictures_of", lambda *_: {})


@pytest.fixture
def traced(monkeypatch):
    """The unit of every question that was traced in this process, in order."""
    units, answered = [], Course.answered

    def noted(self, unit, how):
        if how == "traced":
            units.append(unit)
        answered(self, unit, how)

    monkeypatch.setattr(Course, "answered", noted)
    return units


def evaluate(out, *words):
    """Run the door in this process; returns the results and what was said."""
    out.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        cfg = compose("eval", list(words), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        cfg = compose("eval", list(words))
    with (out.parent / f"{out.name}.txt").open("a+") as said:
        written = door.run(cfg, out, Console(file=said, width=200))
        said.seek(0)
        return stable(read_results(out)) if written else None, said.read()


def killed_evaluation(out, how, number, *words):
    """The same in a process that does not live to its end; see ``tests.killed_evaluation``."""
    command = [sys.executable, "-m", "tests.killed_evaluation", how, str(number)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *words, f"hydra.run.dir={out}"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def scenes(tmp_path):
    return ("tracer=dis", "task=synthetic", "num_pairs=48", "scene.size=32")


def tracks(tmp_path):
    path = tmp_path / "tracks.pkl"
    if not path.is_file():
        write_tracks(path, {n: fake_track((2, 1), seed=i) for i, n in enumerate("abcd")})
    return ("tracer=dis", "task=tapvid", f"task.path={path}")


def pairs(tmp_path):
    if not (tmp_path / "pairs").is_dir():
        for index, name in enumerate("abcd"):
            write_flow_pair(tmp_path / "pairs" / name, (index, 1), masks=True)
    return ("tracer=dis", "task=flow_pairs", f"task.root={tmp_path / 'pairs'}")


@pytest.mark.parametrize(
    "task, how, number",
    [(scenes, "answer", 7), (tracks, "answer", 23), (pairs, "write", 6)],
)
def test_a_killed_evaluation_goes_on_to_the_same_results(task, how, number, tmp_path, traced):
    words = task(tmp_path)
    killed = killed_evaluation(tmp_path / "killed", how, number, *words)
    _, problem = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, problem
    assert not (tmp_path / "killed" / "results.json").exists()
    assert list((tmp_path / "killed" / "predictions").glob("*/*.npz"))
    undisturbed, _ = evaluate(tmp_path / "undisturbed", *words)
    needed = len(traced)
    traced.clear()
    results, _ = evaluate(tmp_path / "killed", *words)
    assert results == undisturbed
    assert 0 < len(traced) < needed  # it went on, and not from the beginning
    again, said = evaluate(tmp_path / "killed", *words)
    assert again == undisturbed and "units were already answered" in said


def test_a_kill_from_outside_at_any_moment_costs_nothing_but_time(tmp_path, traced):
    words = tracks(tmp_path)
    out = tmp_path / "killed"
    running = killed_evaluation(out, "slow", 20, *words)
    moment = random.Random(os.getpid()).uniform(0, 0.5)
    deadline = time.monotonic() + 120
    while len(list(out.glob("predictions/*/*.npz"))) < 3 and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    time.sleep(moment)
    running.send_signal(signal.SIGKILL)
    _, problem = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL, problem
    undisturbed, _ = evaluate(tmp_path / "undisturbed", *words)
    needed = len(traced)
    traced.clear()
    assert evaluate(out, *words)[0] == undisturbed, f"killed after {moment} s"
    assert 0 < len(traced) < needed


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("task", [scenes, tracks, pairs])
def test_shards_then_grading_give_the_results_of_one_process(task, tmp_path, traced):
    words = task(tmp_path)
    out = tmp_path / "shards"
    undisturbed, _ = evaluate(tmp_path / "alone", *words)
    needed = sorted(traced)
    traced.clear()
    for index in (1, 0):
        results, said = evaluate(out, *words, f"shard={index}/2")
        assert results is None and f"shard {index}/2 is traced" in said
        assert sorted(path.name for path in out.iterdir()) == ["predictions"]
    assert sorted(traced) == needed
    traced.clear()
    results, said = evaluate(out, *words, "grade_only=true")
    assert results == undisturbed and not traced
    assert results["coverage"]["share"] == results["stamp"]["coverage"] == 1


@pytest.mark.usefixtures("quickly")
def test_what_is_missing_is_traced_or_refused_with_the_numbers(tmp_path, traced):
    words = pairs(tmp_path)
    out = tmp_path / "out"
    evaluate(out, *words, "shard=0/2")
    with pytest.raises(ValueError, match=r"2 of 4 units \(50\.0%\) are answered .*trace the rest"):
        evaluate(out, *words, "grade_only=true")
    assert sorted(path.name for path in out.iterdir()) == ["predictions"]
    traced.clear()
    evaluate(out, *words)
    assert set(traced) == {"b", "d"}
    with pytest.raises(ValueError, match=r"0 of 4 units .* are answered"):
        evaluate(tmp_path / "empty", *words, "partial=true")


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("task", [scenes, tracks, pairs])
def test_a_part_is_graded_where_that_is_wanted_and_marked_everywhere(task, tmp_path, traced):
    words = (*task(tmp_path), "report=true")
    full, _ = evaluate(tmp_path / "full", *words)
    out = tmp_path / "out"
    evaluate(out, *words, "shard=1/2")
    traced.clear()
    results, said = evaluate(out, *words, "partial=true")
    assert not traced
    units = results["coverage"]["units"]
    assert 0 < units < full["coverage"]["units"] == results["coverage"]["of_units"]
    assert results["coverage"]["share"] == results["stamp"]["coverage"] < 1
    assert results["dataset"]["num_points"] < full["dataset"]["num_points"]
    mark = f"NOT COMPLETE: graded on {units} of"
    assert mark in said and mark in (out / "table.txt").read_text()
    assert mark in (out / "report.html").read_text() and mark in (out / "report.md").read_text()
    if task is tracks:
        whole = {video["name"]: video["scores"] for video in full["videos"]}
        assert all(video["scores"] == whole[video["name"]] for video in results["videos"])
    if task is pairs:  # the points of the others were drawn as before
        whole = {pair["name"]: pair["epe"] for pair in full["pairs"]}
        assert all(pair["epe"] == whole[pair["name"]] for pair in results["pairs"])


@pytest.mark.usefixtures("quickly")
def test_another_question_in_the_same_folder_is_refused(tmp_path):
    words = pairs(tmp_path)
    evaluate(tmp_path / "out", *words, "compare=false")
    for word in ("seed=1", "tracer=zero_motion", "patch_px=2"):
        key = word.split("=")[0]
        with pytest.raises(ValueError, match=rf"another question: \S*{key}\S* was .* and is"):
            evaluate(tmp_path / "out", *words, word)
    free = ("threads=1", "max_batch=3", "tracer.engine.max_tokens=9", "wait_s=3")
    evaluate(tmp_path / "out", *words, *free)


@pytest.mark.usefixtures("quickly")
def test_a_shard_that_is_to_grade_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave one of the two out"):
        evaluate(tmp_path / "out", *pairs(tmp_path), "shard=0/2", "grade_only=true")


# --- several processes of a launcher -----------------------------------------------------------


@pytest.mark.usefixtures("quickly")
def test_two_processes_share_the_work_and_the_first_one_grades(tmp_path, traced, monkeypatch):
    words, out = tracks(tmp_path), tmp_path / "out"
    undisturbed, _ = evaluate(tmp_path / "alone", *words)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    traced.clear()
    assert evaluate(out, *words)[0] is None and set(traced) == {"b", "d"}
    monkeypatch.setenv("RANK", "0")
    traced.clear()
    results, _ = evaluate(out, *words)
    assert results == undisturbed and set(traced) == {"a", "c"}


@pytest.mark.usefixtures("quickly")
def test_the_first_process_waits_for_the_others(tmp_path, monkeypatch):
    words, out = tracks(tmp_path), tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    late = threading.Timer(1.0, lambda: (out / "predictions" / "done_1_of_2").write_text("done"))
    monkeypatch.setattr("doors.shards.POLL_S", 0.05)
    late.start()
    results, said = evaluate(out, *words)
    assert "waiting for 1 of 2 shards" in said and results["coverage"]["share"] == 1


@pytest.mark.usefixtures("quickly")
def test_a_process_that_died_does_not_hold_the_first_one_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setattr("doors.shards.POLL_S", 0.05)
    with pytest.raises(ValueError, match=r"no sign of life from shard 1/3, 2/3 .* for 0\.3 s"):
        evaluate(tmp_path / "out", *tracks(tmp_path), "wait_s=0.3")


def test_several_tracers_in_one_command_each_leave_results(tmp_path):
    words = ("-m", *pairs(tmp_path)[1:], "tracer=dis,zero_motion", "compare=false")
    env = os.environ | {"OMP_NUM_THREADS": "1", "LRAS_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "eval.py", *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = sorted((tmp_path / "runs").rglob("results.json"))
    assert [path.parent.name for path in found] == ["0-dis", "1-zero_motion"]
    assert [read_results(p)["tracers"][0]["name"] for p in found] == ["dis@native", "zero_motion"]


def test_a_share_needs_the_folder_of_the_whole(tmp_path):
    command = [sys.executable, "eval.py", "tracer=dis", "task=synthetic", "shard=0/2"]
    env = os.environ | {"LRAS_RUNS": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "shard=0/2 is a share of one evaluation" in done.stderr
    assert not list(tmp_path.rglob("*.npz"))
