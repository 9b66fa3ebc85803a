"""Who traces what when several processes evaluate together."""

import threading
from io import StringIO

import pytest
from rich.console import Console

from doors import shards
from doors.shards import mark_done, own_device, shard_by_hand, shard_by_launcher, wait_for_others
from tracing.benchmarks.remembered import Shard

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
NAMES += ("SLURM_NTASKS", "SLURM_LOCALID")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shards, "POLL_S", 0.02)


def test_a_shard_by_hand_is_its_index_and_how_many_there_are():
    assert shard_by_hand(None) is None
    assert shard_by_hand("0/1") == Shard(0, 1) and shard_by_hand("11/12") == Shard(11, 12)


@pytest.mark.parametrize("given", ["2/2", "-1/2", "1", "a/b", "1/", "/2", "0/0", "1/2/3", "0.5/2"])
def test_a_misspelt_shard_is_refused(given):
    with pytest.raises(ValueError, match=r"is not i/n with 0 <= i < n; .* shard=0/3"):
        shard_by_hand(given)


@pytest.mark.parametrize(
    "names, shard",
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Shard(2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}, Shard(1, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, None),  # in the batch script itself
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0"}, Shard(1, 2)),
    ],
)
def test_a_launcher_says_it_by_the_environment(names, shard, monkeypatch):
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert shard_by_launcher() == shard


def test_each_process_of_a_machine_has_a_device_of_its_own(monkeypatch):
    assert own_device("cuda") == "cuda"
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu" and own_device("cuda:3") == "cuda:3"


def test_waiting_ends_when_the_last_one_is_done(tmp_path):
    mark_done(tmp_path, Shard(0, 3))
    mark_done(tmp_path, Shard(1, 3))
    mark_done(tmp_path, Shard(2, 4))  # of another division
    late = threading.Timer(0.2, mark_done, (tmp_path, Shard(2, 3)))
    late.start()
    said = StringIO()
    wait_for_others(tmp_path, Shard(0, 3), 5.0, Console(file=said))
    assert not late.is_alive() and "waiting for 1 of 3 shards" in said.getvalue()
    wait_for_others(tmp_path, Shard(0, 3), 0.0, Console(file=StringIO()))  # all are there


def test_a_process_that_writes_is_alive_however_long_it_takes(tmp_path):
    mark_done(tmp_path, Shard(0, 2))
    stop = threading.Event()

    def work():
        number = 0
        while not stop.wait(0.05):
            (tmp_path / "unit.npz").write_text(str(number := number + 1))

    worker = threading.Thread(target=work)
    late = threading.Timer(0.8, mark_done, (tmp_path, Shard(1, 2)))
    worker.start()
    late.start()
    try:
        wait_for_others(tmp_path, Shard(0, 2), 0.4, Console(file=StringIO()))
    finally:
        stop.set()
        worker.join()


def test_no_sign_of_life_ends_the_wait_and_says_what_to_type(tmp_path):
    mark_done(tmp_path, Shard(0, 3))
    with pytest.raises(ValueError, match=r"shard 1/3, 2/3 in .* for 0\.2 s; start the same"):
        wait_for_others(tmp_path, Shard(0, 3), 0.2, Console(file=StringIO()))
