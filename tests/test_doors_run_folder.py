"""Where a run is written, and how several processes come to one answer."""

import json
import os
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from doors import ranks
from doors.run_folder import LAST, newest_run, run_folder, run_name
from doors.run_record import RECORD


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (
        "RANK",
        "LOCAL_RANK",
        "NODE_RANK",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "WORLD_SIZE",
        "SLURM_RESTART_COUNT",
        "SLURM_JOB_ID",
    ):
        monkeypatch.delenv(name, raising=False)


def run(runs: Path, name: str, age_s: float | None) -> Path:
    """A run folder whose checkpoint is so old; without one if None."""
    folder = runs / name
    (folder / LAST).parent.mkdir(parents=True)
    if age_s is not None:
        (folder / LAST).write_bytes(b"")
        then = time.time() - age_s
        os.utime(folder / LAST, (then, then))
    return folder


def test_the_newest_run_is_the_one_with_the_youngest_checkpoint_of_that_seed(tmp_path):
    run(tmp_path, "b-seed0", age_s=50)
    newest = run(tmp_path, "a-seed0", age_s=10)
    run(tmp_path, "c-seed1", age_s=0)
    run(tmp_path, "d-seed0", age_s=None)
    assert newest_run(tmp_path, 0) == newest
    assert newest_run(tmp_path, 10) is None and newest_run(tmp_path / "none", 0) is None


@pytest.mark.parametrize("age_s", [50, None])  # None: killed before its first checkpoint
@pytest.mark.parametrize("tasks", ["1", "2"])
def test_a_requeued_job_goes_on_with_its_own_run(tasks, age_s, tmp_path, monkeypatch):
    own, other = run(tmp_path, "b-seed0", age_s), run(tmp_path, "a-seed0", age_s=10)
    for folder, jobs in ((own, ("5", "77")), (other, ("77", "8"))):  # parts; the last one counts
        (folder / RECORD).write_text(json.dumps([{"slurm_job": job} for job in jobs]))
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert newest_run(tmp_path, 0) == other
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert newest_run(tmp_path, 0) == own
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert newest_run(tmp_path, 0) == other


def test_resume_leads_to_the_run_it_names_or_finds(tmp_path):
    old = run(tmp_path, "b-seed0", age_s=50)
    assert run_folder(str(tmp_path), 0, str(old), False) == str(old)
    assert run_folder(str(tmp_path), 0, "auto", False) == str(old)
    fresh = run_folder(str(tmp_path), 0, None, False)
    assert fresh.endswith("-seed0") and not Path(fresh).exists()


def test_runs_of_a_sweep_have_folders_of_their_own_in_the_same_second(tmp_path):
    names = {run_name(str(tmp_path), 0, None, False, number) for number in range(3)}
    assert len(names) == 3 and all(name.endswith("-seed0") for name in names)


def test_a_dry_run_gets_a_folder_outside_the_runs(tmp_path):
    folder = Path(run_folder(str(tmp_path / "runs"), 0, None, True))
    assert folder.is_dir() and not (tmp_path / "runs").exists()
    folder.rmdir()


def test_tasks_that_slurm_starts_side_by_side_share_the_folder_of_their_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert run_folder(str(tmp_path), 3, None, False) == str(tmp_path / "job77-seed3")


def test_processes_of_torchrun_agree_on_what_the_first_of_them_says(monkeypatch):
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert [ranks.agreed(lambda v=v: v, "folder") for v in ("a", "b")] == ["a", "a"]
    assert ranks.agreed(lambda: "b", "another question") == "b"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ranks.agreed(lambda: "b", "folder") == "b"


def test_processes_that_cannot_agree_are_told_to_name_the_folder(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(ValueError, match=r"hydra\.run\.dir=FOLDER"):
        ranks.agreed(lambda: "a", "folder")


@pytest.mark.parametrize(
    "env, rank",
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3),  # torchrun
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "SLURM_PROCID": "0"}, 1),  # Lightning within a job
        ({"NODE_RANK": "1"}, 1),
        ({"SLURM_PROCID": "2"}, 2),
    ],
)
def test_the_rank_is_read_from_whoever_started_the_process(env, rank, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert ranks.rank_or_any() == rank


def test_a_mistake_on_another_rank_names_it(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="rank 2: too many"), ranks.one_of_many():
        raise ValueError("too many")


def test_errors_that_are_no_lost_process_pass_as_they_are():
    with pytest.raises(RuntimeError, match="connection closed"), ranks.one_of_many():
        raise RuntimeError("connection closed")  # and no process group: something else broke
