"""A job cut into fixed tasks, which any number of workers do and redo until all are done.

Everything there is to know lies in ``OUT/.tasks`` while the job runs: ``plan.json`` (what was
asked), ``000003.claim`` (someone is at it), ``000003.now`` (how far), ``000003.json`` (done).
A task is a pure function of the plan, writes whole files only and may be done twice. When all are
done one process puts the results together, writes ``OUT/JOB.json`` and deletes ``.tasks``.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from data.claims import claim, create_whole, sweep
from data.index import partial_path, write_whole
from data.video import printable

HEARTBEAT_S = 5.0
FOLDER = ".tasks"
SPLITS = ("train", "val")


@runtime_checkable  # so the test-time checker can see it
class Job(Protocol):
    """What ``data.engines`` runs; it is pickled on the way to other processes.

    ``settings`` and ``inputs`` decide what comes out; ``out`` is the folder it is written to.
    """

    name: str
    out: Path
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    num_tasks: int

    def run(self, task: int, progress: "Progress") -> dict[str, Any]:
        """Do one task, from its beginning; returns what its marker is to say."""

    def finish(self, markers: list[dict[str, Any]]) -> dict[str, Any]:
        """Put the results of all tasks together; returns what ``JOB.json`` is to say."""


class Progress:
    """How far a worker is in its task: which input it is at, and counts of what it has made."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.counts = path, {"inputs": 0, "clips": 0, "frames": 0}
        self.at: int | None = None

    def begin(self, number: int) -> None:
        """Now at this input; written at once, since it may be the one that kills the process."""
        self.at = number
        self.write()

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] += count

    def write(self) -> None:
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):  # the job was finished by someone else
                who = {"host": socket.gethostname(), "pid": os.getpid()}
                content = {**who, "at": self.at, **self.counts}
                self.path.write_text(json.dumps(content))


class TaskFolder:
    """``OUT/.tasks`` of one job."""

    def __init__(self, job: Job) -> None:
        self.job, self.path = job, job.out / FOLDER
        self.result_path = job.out / f"{job.name}.json"

    def begin(self) -> dict[str, Any] | None:
        """Start the job or join it; the contents of ``JOB.json`` if it is finished already.

        Raises:
            ValueError: ``out`` holds something else, or the same job with other settings or inputs.
        """
        out = self.job.out
        if (result := self._finished()) is not None:
            return result
        if out.exists() and (not out.is_dir() or any(out.iterdir())) and not self.path.is_dir():
            if (result := self._finished()) is not None:  # just now, by another command
                return result
            raise ValueError(
                f"out={printable(out)} exists and is not empty; name a new folder or delete it."
            )
        plan = json.dumps(self._plan(), indent=1, sort_keys=True).encode()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            create_whole(self.path / "plan.json", plan)
            self._check_same(json.loads((self.path / "plan.json").read_text()))
            if (result := self._finished()) is not None:  # since we looked: not once more
                return result
        except FileNotFoundError:  # another command cleared up just now
            if (result := self._finished()) is None:
                raise
            return result
        sweep(self._folders())
        return None

    def _finished(self) -> dict[str, Any] | None:
        """The result, if there is one, of the same job; what is left of its tasks is deleted."""
        if (result := self.result()) is not None:
            self._check_same(result["plan"])
            self._delete()
        return result

    def result(self) -> dict[str, Any] | None:
        """The contents of ``JOB.json``; None as long as the job is not finished."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return json.loads(self.result_path.read_text())

    def _plan(self) -> dict[str, Any]:
        names = "\n".join(json.dumps(name) for name in self.job.inputs)
        digest = hashlib.sha256(names.encode()).hexdigest()
        plan = {"settings": self.job.settings, "inputs": len(self.job.inputs), "names": digest}
        return json.loads(json.dumps(plan))

    def _check_same(self, before: dict[str, Any]) -> None:
        now, where = self._plan(), f"out={printable(self.job.out)}"
        for name in sorted({*now["settings"], *before["settings"]}):
            then, this = (plan["settings"].get(name, "nothing") for plan in (before, now))
            if then != this:
                raise ValueError(
                    f"{where} was begun with {name}={then}, not {name}={this}; give the same "
                    f"settings to go on, or name a new folder."
                )
        if (before["inputs"], before["names"]) != (now["inputs"], now["names"]):
            raise ValueError(
                f"{where} was begun with {before['inputs']} inputs and these {now['inputs']} are "
                f"others; give the same ones to go on, or name a new folder."
            )

    def marker_path(self, task: int, suffix: str = "json") -> Path:
        return self.path / f"{task:06d}.{suffix}"

    def open_tasks(self) -> list[int]:
        """Tasks without a marker; none once the job is finished."""
        try:
            there = set(os.listdir(self.path))
        except FileNotFoundError:
            return []
        return [task for task in range(self.job.num_tasks) if f"{task:06d}.json" not in there]

    def markers(self) -> Iterator[dict[str, Any]]:
        for task in range(self.job.num_tasks):
            yield json.loads(self.marker_path(task).read_bytes())

    def crashed(self, task: int) -> dict[str, str]:
        """Inputs of a task, by number, that killed a worker, and by which signal."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads(self.marker_path(task, "crashed").read_bytes())
        return {}

    def note_crash(self, pid: int, signal_name: str) -> bool:
        """Record the input that the dead worker ``pid`` was at; whether there is one."""
        for path in self.path.glob("*.now"):
            with contextlib.suppress(ValueError, OSError):
                now = json.loads(path.read_text())
                who = (now["host"], now["pid"])
                if who == (socket.gethostname(), pid) and now["at"] is not None:
                    task = int(path.stem)
                    crashed = self.crashed(task) | {str(now["at"]): signal_name}
                    write_whole(self.marker_path(task, "crashed"), json.dumps(crashed).encode())
                    return True
        return False

    def finish(self) -> dict[str, Any] | None:
        """Put the results together, by one process alone; None while another one does."""
        mine = None
        try:
            mine = claim(self.path / "finish.claim")
            if mine is None:
                return self.result()
            if (result := self.result()) is None:
                about = self.job.finish(list(self.markers()))
                result = {"plan": self._plan(), **about}
                sweep(self._folders(), everything=True)
                content = json.dumps(result, indent=1, sort_keys=True)
                write_whole(self.result_path, content.encode())
        except FileNotFoundError:
            if (result := self.result()) is None and (mine or not self.path.exists()):
                raise
            return result  # another command has finished the job, or is clearing up for that
        finally:
            if mine is not None:
                mine.release()
        self._delete()
        return result

    def give_up(self) -> None:
        """After a failure: delete what is half-written, claims of the dead, which may have been
        ended while they let go, and, if no task is done, all of ours."""
        sweep(self._folders())
        for path in self.path.glob("*.claim"):
            with contextlib.suppress(FileNotFoundError):  # someone else cleared up
                if (void := claim(path)) is not None:
                    void.release()
        done = len(self.open_tasks()) < self.job.num_tasks
        if not done and self.result() is None and not any(self.path.glob("*.claim")):
            self.discard()

    def discard(self) -> None:
        """Delete all that the job has written, and ``out`` if that leaves it empty."""
        for split in SPLITS:
            shutil.rmtree(self.job.out / split, ignore_errors=True)
        self._delete()
        with contextlib.suppress(OSError):
            self.job.out.rmdir()

    def _delete(self) -> None:
        # Renamed first, at one stroke: else others would take the tasks whose markers go first.
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(partial_path(self.path))
        sweep([self.job.out], everything=True)

    def _folders(self) -> list[Path]:
        out = self.job.out
        return [out, *(path for path in out.iterdir() if path.is_dir())] if out.is_dir() else []


def work(job: Job) -> int:
    """Do tasks one after the other until none is left that nobody else is at; how many."""
    folder, done = TaskFolder(job), 0
    with contextlib.suppress(FileNotFoundError):  # someone finished the job and cleared up
        while True:
            before = done
            for task in folder.open_tasks():
                done += _try(job, folder, task)
            if done == before:
                break
    return done


def _try(job: Job, folder: TaskFolder, task: int) -> int:
    mine = claim(folder.marker_path(task, "claim"))
    if mine is None:
        return 0
    progress = Progress(folder.marker_path(task, "now"))
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_S):
            mine.touch()
            progress.write()

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        if folder.marker_path(task).exists():  # done between our look and our claim
            return 0
        marker = job.run(task, progress) | {"counts": progress.counts}
        write_whole(folder.marker_path(task), json.dumps(marker, sort_keys=True).encode())
        return 1
    finally:
        stopped.set()
        heart.join()
        if progress.path is not None:
            progress.path.unlink(missing_ok=True)
        mine.release()
