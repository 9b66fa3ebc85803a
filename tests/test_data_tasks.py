"""Plans, restarts, workers that die: what a job promises whatever it is about."""

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_datasets import noise_video, write_video
from test_data_ingest import config, digests_of, run

from data.engines import EngineConfig, run_job
from data.index import write_whole
from data.ingest import ingest
from data.task_progress import Tally
from data.tasks import TaskFolder, work


@dataclass(frozen=True)
class Letters:
    """Task t writes the file t.txt; input 3 may do harm to the worker that is at it."""

    out: Path
    harm: str = ""
    settings: dict = field(default_factory=lambda: {"size": 1})
    inputs: tuple[str, ...] = tuple("abcdef")
    name: str = "letters"

    @property
    def num_tasks(self):
        return len(self.inputs)

    def run(self, task, progress):
        progress.begin(task)
        crashed = TaskFolder(self).crashed(task)
        if task == 3 and not crashed:
            if self.harm == "once" and not (self.out / "hurt").exists():
                (self.out / "hurt").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.harm in ("SIGSEGV", "SIGKILL"):
                os.kill(os.getpid(), getattr(signal, self.harm))
            if self.harm == "ValueError":
                raise ValueError("d is bad; leave it out.")
        text = f"{self.inputs[task]}{' '.join(crashed.values())}"
        write_whole(self.out / f"{task}.txt", text.encode())
        progress.add(inputs=1, clips=2, frames=5)
        return {"text": text}

    def finish(self, markers):
        return {"all": [marker["text"] for marker in markers]}


LOCAL = EngineConfig(workers=0)


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[1]}")
    return tmp_path / "out"


def test_a_job_is_done_once_and_then_found_done(out):
    result = run_job(Letters(out), LOCAL)
    assert result["all"] == list("abcdef") and not (out / ".tasks").exists()
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run_job(Letters(out), LOCAL) == result
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_only_what_is_left_is_done(out):
    job = Letters(out, harm="ValueError")
    with pytest.raises(ValueError, match="d is bad"):
        run_job(job, LOCAL)
    assert TaskFolder(job).open_tasks() == [3, 4, 5]
    before = (out / "0.txt").stat().st_mtime_ns
    assert run_job(Letters(out), LOCAL)["all"] == list("abcdef")
    assert (out / "0.txt").stat().st_mtime_ns == before


def test_other_settings_or_inputs_are_refused_while_it_runs_and_after(out):
    with pytest.raises(ValueError):
        run_job(Letters(out, harm="ValueError"), LOCAL)
    for _ in range(2):
        with pytest.raises(ValueError, match="was begun with size=1, not size=2; give the same"):
            run_job(Letters(out, settings={"size": 2}), LOCAL)
        with pytest.raises(ValueError, match="begun with 6 inputs and these 6 are others"):
            run_job(Letters(out, inputs=tuple("abcdeg")), LOCAL)
        run_job(Letters(out), LOCAL)


def test_tasks_that_another_process_holds_are_left_to_it(out):
    job = Letters(out)
    folder = TaskFolder(job)
    folder.begin()
    mark = {"host": "elsewhere", "pid": 1, "started": 1}
    folder.marker_path(2, "claim").write_text(json.dumps(mark))
    assert work(job) == 5 and folder.open_tasks() == [2]


def test_progress_counts_what_is_done_and_what_is_under_way(out):
    job = Letters(out, harm="ValueError")
    folder = TaskFolder(job)
    folder.begin()
    tally = Tally(folder)
    with pytest.raises(ValueError):
        work(job)
    under_way = {"host": "x", "pid": 1, "at": 4, "inputs": 0, "clips": 1, "frames": 4}
    folder.marker_path(4, "now").write_text(json.dumps(under_way))
    counts = tally.counts()
    assert counts == {"inputs": 3, "clips": 7, "frames": 19}
    rates, left = tally.rates(counts)
    assert rates["clips"] / rates["inputs"] == pytest.approx(7 / 3)
    assert left == pytest.approx(3 / rates["inputs"])


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(out):
    result = run_job(Letters(out, harm="once"), EngineConfig(workers=2))
    assert result["all"] == list("abcdef")


@pytest.mark.slow
def test_an_input_that_crashes_its_worker_is_told_to_the_next_one(out):
    result = run_job(Letters(out, harm="SIGSEGV"), EngineConfig(workers=2))
    assert result["all"] == ["a", "b", "c", "dSIGSEGV", "e", "f"]


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again_end_the_command(out):
    with pytest.raises(RuntimeError, match="killed by SIGKILL 3 times in a row"):
        run_job(Letters(out, harm="SIGKILL"), EngineConfig(workers=2))
    assert not list((out / ".tasks").glob("*.claim"))
    assert run_job(Letters(out), LOCAL)["all"] == list("abcdef")


@pytest.mark.slow
def test_the_error_of_a_worker_is_the_error_of_the_command(out):
    with pytest.raises(ValueError, match="d is bad; leave it out"):
        run_job(Letters(out, harm="ValueError"), EngineConfig(workers=3))
    assert not list((out / ".tasks").glob("*.claim"))


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mkv", noise_video(12, 16, 16, seed=number))
    return tmp_path / "videos"


def test_an_ingest_with_other_settings_or_videos_in_the_same_folder_is_refused(
    videos, tmp_path, capsys
):
    out = tmp_path / "out"
    common = (f"videos={videos}", f"out={out}", "clip_frames=4", "workers=0", "size=16")
    assert run(capsys, *common)[0] == 0
    before = digests_of(out)
    status, said = run(capsys, *common, "fps=10")
    assert status == 1 and "was begun with fps=None, not fps=10.0" in said
    write_video(videos / "another.mkv", noise_video(12, 16, 16))
    status, said = run(capsys, *common)
    assert status == 1 and "begun with 3 inputs and these 4 are others" in said
    (videos / "another.mkv").unlink()
    status, said = run(capsys, *common)
    assert status == 0 and "nothing is left to do" in said and digests_of(out) == before


def test_a_finished_ingest_may_be_typed_with_other_workers_or_strictness(videos, tmp_path):
    ingest(config(videos, tmp_path / "out"))
    result = ingest(config(videos, tmp_path / "out", workers=2, strict=True))
    assert result.clips == {"train": 6, "val": 3} and result.frames == 36


def test_shards_of_an_earlier_attempt_that_are_too_many_are_deleted(videos, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    ingest(config(videos, whole, shard_clips=2))
    (out / "train").mkdir(parents=True)
    (out / ".tasks").mkdir()
    for number in range(3, 6):
        (out / "train" / f"clips-000000-{number:06d}.tar").write_bytes(b"too many")
        (out / "train" / f"clips-000000-{number:06d}.tar.json").write_bytes(b"{}")
    ingest(config(videos, out, shard_clips=2))
    assert digests_of(out) == digests_of(whole)


def test_a_merge_that_was_cut_off_is_made_good(videos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    ingest(config(videos, whole))

    def cut_off(*_):
        raise RuntimeError("power cut")

    monkeypatch.setattr("data.ingest_job.write_whole", cut_off)
    with pytest.raises(RuntimeError, match="power cut"):
        ingest(config(videos, out))
    assert (out / "train" / "index.json").exists() and not (out / "ingest.json").exists()
    monkeypatch.undo()
    ingest(config(videos, out))
    assert digests_of(out) == digests_of(whole)


@pytest.mark.parametrize("look", [1, 2])
def test_a_command_that_begins_as_another_ends_does_not_do_it_all_again(out, monkeypatch, look):
    folder, original, looks = TaskFolder(Letters(out)), TaskFolder.result, []

    def result(self):
        found = original(self)
        if self is folder:
            looks.append(1)
            if len(looks) == 1 and look == 2:
                folder.path.mkdir(parents=True)  # so that it does not look like another's folder
            if len(looks) == look:  # not finished at this look, and right after it finished
                run_job(Letters(out), LOCAL)
        return found

    monkeypatch.setattr(TaskFolder, "result", result)
    assert (folder.begin() or folder.finish())["all"] == list("abcdef")
    assert not (out / ".tasks").exists() and work(Letters(out)) == 0


def test_the_task_folder_goes_at_one_stroke(out, monkeypatch):
    job, open_tasks = Letters(out), []

    def rmtree(path, ignore_errors):
        open_tasks.append(TaskFolder(job).open_tasks())

    monkeypatch.setattr("data.claims.shutil.rmtree", rmtree)
    run_job(job, LOCAL)
    assert open_tasks == [[]] and list(out.glob("*.tasks.partial-*"))
    monkeypatch.undo()
    run_job(job, LOCAL)  # clears up what was cut off
    assert not list(out.glob(".*"))
