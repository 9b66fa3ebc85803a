"""Where the tasks of a job are done: this process, a pool of processes, Ray, or a SLURM cluster.

Every engine only starts ``data.tasks.work`` so and so many times; who does what the workers settle
among themselves through claim files, and a command that is typed again goes on where it stopped.
"""

import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from rich.console import Console

from data.task_progress import shown_progress
from data.tasks import Job, TaskFolder, work

ENGINES = ("local", "ray", "slurm")
POLL_S = 0.2
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")  # the work's doing, not a user's
LIVES = 3  # deaths of workers in a row, without a task done, that are put up with


@dataclass(kw_only=True)
class EngineConfig:
    """``engine`` and what belongs to it; part of every command that does a job."""

    engine: str = "local"  # local, ray or slurm
    workers: int | None = None  # processes or jobs; 0 = this process; null = one per core (local)
    ray_address: str | None = None  # of a running Ray cluster; null = start one on this machine
    slurm_cluster: str = "slurm"  # slurm; local = the same jobs as processes of this machine
    slurm_timeout_min: int = 1440  # minutes that one job may take
    slurm_cpus: int = 1  # per job
    slurm_memory_gb: float = 4.0  # per job
    slurm_options: dict[str, Any] = field(default_factory=dict)  # more of sbatch's, by name

    def __post_init__(self) -> None:
        if self.engine not in ENGINES or (self.workers is not None and self.workers < 0):
            raise ValueError(
                f"got engine={self.engine} workers={self.workers}; engine is one of "
                f"{' '.join(ENGINES)}, workers a number from 0 on."
            )

    def num_workers(self, num_tasks: int) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return min(cores if self.workers is None else self.workers, num_tasks)


def engine_fields() -> tuple[str, ...]:
    """Settings that change nothing about what comes out."""
    return tuple(EngineConfig.__dataclass_fields__)


def run_job(job: Job, cfg: EngineConfig, console: Console | None = None) -> dict[str, Any]:
    """Do what is left of the job and put it together; the contents of ``JOB.json``.

    Raises:
        ValueError: out holds something else, an input is bad and the job is strict, or nothing came
            out. What is half-written is deleted; finished tasks stay for the next time.
        RuntimeError: workers failed.
    """
    console = console or Console(stderr=True, quiet=True)
    folder = TaskFolder(job)
    if (result := folder.begin()) is not None:
        console.print("finished before: nothing is left to do", markup=False)
        return result
    try:
        with shown_progress(folder, console):
            while True:
                if left := len(folder.open_tasks()):
                    before = left
                    START[cfg.engine](job, cfg, left)
                    if len(folder.open_tasks()) == before:
                        time.sleep(POLL_S)  # another command holds them
                elif (result := folder.finish()) is not None:
                    return result
                else:
                    time.sleep(POLL_S)
    except BaseException:
        folder.give_up()
        raise


def _local(job: Job, cfg: EngineConfig, left: int) -> None:
    workers = cfg.num_workers(left)
    if workers == 0:
        work(job)
        return
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["data.video", "data.index"])  # slow to import
    pool = [_Worker(context, job, number) for number in range(workers)]
    folder, lives = TaskFolder(job), LIVES
    try:
        while pool:
            wait([worker.process.sentinel for worker in pool])
            for worker in [worker for worker in pool if not worker.process.is_alive()]:
                pool.remove(worker)
                if (signal_name := worker.end()) is None:
                    continue
                left_before, left = left, len(folder.open_tasks())
                lives = LIVES if left < left_before else lives - 1
                if signal_name in CRASHES and folder.note_crash(worker.pid, signal_name):
                    lives = LIVES  # that input is left out from now on
                if not lives:
                    raise RuntimeError(
                        f"workers were killed by {signal_name} {LIVES} times in a row (too little "
                        f"memory?); type the same command with fewer workers= to go on."
                    )
                pool.append(_Worker(context, job, worker.number))
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.process.join()


class _Worker:
    """A process that works until no task is left, and says what went wrong."""

    def __init__(self, context: Any, job: Job, number: int) -> None:
        self.number = number
        self._ear, mouth = context.Pipe(duplex=False)
        self.process = context.Process(target=_work_here, args=(job, number, mouth), daemon=True)
        self.process.start()
        mouth.close()
        self.pid = self.process.pid

    def end(self) -> str | None:
        """The signal that killed it, None if it came to its end; raises what it raised."""
        self.process.join()
        code = self.process.exitcode
        try:
            error = self._ear.recv() if self._ear.poll() else None
        except EOFError:
            error = None
        self._ear.close()
        if error is not None:
            raise error
        if code < 0:
            return signal.Signals(-code).name
        if code:
            raise RuntimeError(f"a worker ended with status {code}; its words are above.")
        return None


def _work_here(job: Job, number: int, mouth: Connection) -> None:
    os.environ[WORKER] = str(number)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clears up on the way out
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    try:
        work(job)
    except (ValueError, OSError, RuntimeError) as error:
        mouth.send(type(error)(str(error)) if isinstance(error, ValueError) else _as_text(error))


WORKER = "LRAS_DATA_WORKER"  # number of this worker, for jobs that share out devices


def _as_text(error: Exception) -> RuntimeError:
    return RuntimeError(f"a worker failed: {type(error).__name__}: {error}")


def _ray(job: Job, cfg: EngineConfig, left: int) -> None:
    if importlib.util.find_spec("ray") is None:
        raise ValueError("engine=ray needs Ray, which is absent: pip install 'ray>=2.40'")
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(address=cfg.ray_address, log_to_driver=False, include_dashboard=False)
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = min(cfg.workers or cores, left)
        remote = ray.remote(num_cpus=1, max_retries=LIVES)(work)
        waiting = [remote.remote(job) for _ in range(count)]
        try:
            while waiting:
                ended, waiting = ray.wait(waiting)
                ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            for each in waiting:
                ray.cancel(each, force=False)
            raise _cause(error) from None
    finally:
        if started:
            ray.shutdown()


def _cause(error: Any) -> Exception:
    cause = error.cause
    return ValueError(str(cause)) if isinstance(cause, ValueError) else _as_text(cause)


def _slurm(job: Job, cfg: EngineConfig, left: int) -> None:
    if importlib.util.find_spec("submitit") is None:
        raise ValueError(
            "engine=slurm needs submitit, which is absent: pip install hydra-submitit-launcher"
        )
    import submitit

    logs = TaskFolder(job).path / "slurm"
    executor = submitit.AutoExecutor(folder=logs, cluster=cfg.slurm_cluster)
    executor.update_parameters(
        name=f"{job.name}-{job.out.name}",
        timeout_min=cfg.slurm_timeout_min,
        cpus_per_task=cfg.slurm_cpus,
        mem_gb=cfg.slurm_memory_gb,
        **({"slurm_additional_parameters": dict(cfg.slurm_options)} if cfg.slurm_options else {}),
    )
    count = min(cfg.workers or 8, left)
    with executor.batch():
        jobs = [executor.submit(_work_and_tell, job) for _ in range(count)]
    try:
        errors = [error for each in jobs if (error := each.exception() or each.result())]
    finally:
        for each in jobs:
            if not each.done():
                each.cancel()
    if errors:
        kept = job.out.with_name(f"{job.out.name}-slurm-logs")
        shutil.copytree(logs, kept, dirs_exist_ok=True)
        mistakes = [error for error in errors if isinstance(error, ValueError)]
        kind, first = (ValueError, mistakes[0]) if mistakes else (RuntimeError, errors[0])
        raise kind(
            f"{len(errors)} of {count} SLURM jobs failed ({str(first).strip().splitlines()[0]}); "
            f"their words are in {kept}: type the same command to go on."
        )


def _work_and_tell(job: Job) -> ValueError | None:
    """As ``work``; a mistake of the user's comes back as it is, without a traceback round it."""
    try:
        work(job)
    except ValueError as error:
        return ValueError(str(error))
    return None


START: dict[str, Callable[[Job, EngineConfig, int], None]] = {
    "local": _local,
    "ray": _ray,
    "slurm": _slurm,
}
