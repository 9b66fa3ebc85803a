"""One holder a claim; the dead and the silent lose theirs."""

import json
import multiprocessing
import os
import subprocess
import sys

from data.claims import claim, started, sweep


def held_by(path, **changed):
    mark = {"host": os.uname().nodename, "pid": os.getpid(), "started": started(os.getpid())}
    path.write_text(json.dumps(mark | changed))


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


def test_of_many_at_once_exactly_one_gets_a_claim(tmp_path):
    context = multiprocessing.get_context("fork")
    paths = [tmp_path / f"{number:06d}.claim" for number in range(200)]
    for path in paths[::2]:  # half of them are void
        held_by(path, pid=1, started=-1)
    start, end, ear = context.Event(), context.Event(), context.SimpleQueue()

    def take_all():
        start.wait()
        ear.put([path.name for path in paths if claim(path) is not None])
        end.wait(20)  # alive until all have tried

    rivals = [context.Process(target=take_all) for _ in range(4)]
    [rival.start() for rival in rivals]
    start.set()
    taken = [name for _ in rivals for name in ear.get()]
    end.set()
    [rival.join() for rival in rivals]
    assert sorted(taken) == sorted(path.name for path in paths)


def test_a_living_holder_keeps_its_claim_and_gives_it_back(tmp_path):
    path = tmp_path / "000000.claim"
    mine = claim(path)
    assert mine is not None and claim(path) is None
    mine.release()
    assert not path.exists() and claim(path) is not None


def test_the_dead_of_this_host_lose_their_claim_at_once(tmp_path):
    path = tmp_path / "000000.claim"
    held_by(path, pid=dead_process())
    assert claim(path) is not None
    assert json.loads(path.read_text())["pid"] == os.getpid()
    held_by(path, started=started(os.getpid()) - 1)  # the number was given out again
    assert claim(path) is not None
    assert [each.name for each in tmp_path.iterdir()] == ["000000.claim"]


def test_another_host_loses_it_when_it_has_been_silent_for_long(tmp_path):
    path = tmp_path / "000000.claim"
    held_by(path, host="elsewhere", pid=dead_process())
    assert claim(path, stale_s=100.0) is None
    before = path.stat().st_mtime - 101
    os.utime(path, (before, before))
    assert claim(path, stale_s=100.0) is not None


def test_a_touch_keeps_a_claim_fresh(tmp_path):
    path = tmp_path / "000000.claim"
    mine = claim(path)
    os.utime(path, (0, 0))
    mine.touch()
    assert claim(path, stale_s=100.0) is None


def test_a_claim_that_was_taken_over_is_not_given_back_by_its_first_holder(tmp_path):
    path = tmp_path / "000000.claim"
    mine = claim(path)
    held_by(path, host="elsewhere")
    mine.release()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_a_claim_cut_off_in_writing_is_void_by_its_age_alone(tmp_path):
    path = tmp_path / "000000.claim"
    path.write_text('{"host": ')
    assert claim(path) is None
    os.utime(path, (0, 0))
    assert claim(path) is not None


def test_only_the_leavings_of_the_dead_are_swept(tmp_path):
    host = os.uname().nodename
    dead, other = f".a.tar.partial-{host}-{dead_process()}", ".b.tar.partial-elsewhere-1"
    mine = f".c.tar.partial-{host}-{os.getpid()}"
    for name in dead, other, mine, "d.tar":
        (tmp_path / name).touch()
    sweep([tmp_path, tmp_path / "gone"])
    assert {each.name for each in tmp_path.iterdir()} == {other, mine, "d.tar"}
    sweep([tmp_path], everything=True)
    assert {each.name for each in tmp_path.iterdir()} == {"d.tar"}


def test_a_killed_child_that_nobody_has_waited_for_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert started(child.pid) is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but still there
    assert started(child.pid) is None
    child.wait()
