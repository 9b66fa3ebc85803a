"""What ingest costs beside the decoding it cannot avoid, and what kills cost it: nothing.

    python benchmarks/data_ingest.py --quick --json benchmarks/results/data_ingest.json    minutes
    python benchmarks/data_ingest.py --json FILE                                           longer

``ratio`` is frames per second of the whole ingest (encode, hash, tar, flush, index) over those of
bare decoding and resizing of the same videos, by the same number of processes of one pool; the two
take turns in pairs, in an order that alternates, and the median over the pairs counts. ``kills``
types a command, kills it at random moments and types it again, and compares every byte with an
undisturbed run. ``cpu_ratio`` is the same of seconds of processor, which other programs on the
machine disturb less.
"""

import argparse
import hashlib
import multiprocessing
import os
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

from rich.console import Console
from rich.table import Table

from benchmarks.ingest_kills import finish, run_with_kills, start
from benchmarks.result_file import CANNOT_MEASURE_HERE, ROOT, write_result
from data.ingest import IngestConfig
from data.ingest_job import IngestJob
from data.inputs import Inputs, find_inputs
from data.tasks import TaskFolder, work
from data.video import VideoFrames

SEED = 0
QUICK_PAIRS = {64: 5, 256: 3}  # by size in px; the first is the default of data.ingest
KILLS = 5


@dataclass(frozen=True)
class Spent:
    """Frames, seconds on the clock, and seconds of processor over all processes of the pool."""

    frames: int
    seconds: float
    cpu_seconds: float


def bare(job: IngestJob, task: int) -> tuple[int, float]:
    """Decode and resize the videos of a task as ingest does, and forget them."""
    begin, count = time.process_time(), job.settings["task_videos"]
    numbers = range(task * count, min((task + 1) * count, len(job.inputs)))
    frames = 0
    for number in numbers:
        video = VideoFrames(job.found.path(number), job.settings["size"], threads=1)
        frames += sum(1 for _ in video.timed_pixels())
    return frames, time.process_time() - begin


def whole(job: IngestJob) -> float:
    """What a worker of ingest does, until no task is left; its seconds of processor."""
    begin = time.process_time()
    work(job)
    return time.process_time() - begin


def warm_up(found: Inputs) -> int:
    """Import all there is to import, and have the videos in memory."""
    return sum(len(found.path(number).read_bytes()) for number in range(len(found.names)))


def spent_bare(pool: ProcessPoolExecutor, job: IngestJob) -> Spent:
    begin = time.perf_counter()
    done = list(pool.map(bare, [job] * job.num_tasks, range(job.num_tasks)))
    seconds = time.perf_counter() - begin
    return Spent(sum(frames for frames, _ in done), seconds, sum(cpu for _, cpu in done))


def spent_ingest(pool: ProcessPoolExecutor, job: IngestJob, workers: int) -> Spent:
    begin = time.perf_counter()
    folder = TaskFolder(job)
    folder.begin()
    cpu = sum(pool.map(whole, [job] * workers))
    result = folder.finish()
    return Spent(result["frames"], time.perf_counter() - begin, cpu)


def measure_ratio(videos: Path, size: int, pairs: int, workers: int) -> dict:
    """Frames per second of both, and their ratio, over ``pairs`` pairs."""
    found = find_inputs(str(videos))
    context = multiprocessing.get_context("forkserver")
    spent: dict[str, list[Spent]] = {"bare": [], "ingest": []}
    with ProcessPoolExecutor(workers, mp_context=context) as pool, scratch() as folder:
        list(pool.map(warm_up, [found] * workers))
        for pair in range(pairs):
            out = folder / f"out{pair}"
            cfg = IngestConfig(videos=str(videos), out=str(out), size=size)
            job = IngestJob(settings=cfg.settings(), out=out, found=found)
            for turn in ("bare", "ingest") if pair % 2 else ("ingest", "bare"):
                measured = (
                    spent_bare(pool, job) if turn == "bare" else spent_ingest(pool, job, workers)
                )
                spent[turn].append(measured)
                print(f"{size} px, pair {pair}, {turn}: {measured}", file=sys.stderr)
    bares, ingests = spent["bare"], spent["ingest"]
    assert {each.frames for each in bares} == {each.frames for each in ingests}
    ratios = [b.seconds / i.seconds for b, i in zip(bares, ingests, strict=True)]
    cpu_ratios = [b.cpu_seconds / i.cpu_seconds for b, i in zip(bares, ingests, strict=True)]
    rates = {
        f"{turn}_frames_per_s": round(statistics.median(s.frames / s.seconds for s in each), 1)
        for turn, each in spent.items()
    }
    return {
        "size_px": size,
        "workers": workers,
        "pairs": pairs,
        "frames": bares[0].frames,
        **rates,
        "ratio": round(statistics.median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "cpu_ratio": round(statistics.median(cpu_ratios), 4),
    }


def measure_kills(videos: Path, seeds: list[int]) -> dict:
    """Files that differ from an undisturbed run's, or are left over, after kills and restarts."""
    with scratch() as folder:
        words = ["-m", "data.ingest", f"videos={videos}", "task_videos=1", "shard_clips=8"]
        words += ["workers=2"]
        begin = time.perf_counter()
        finish(start([*words, f"out={folder / 'whole'}"]))
        seconds = time.perf_counter() - begin
        expected, differ, hits = digests(folder / "whole"), 0, 0
        for seed in seeds:
            out = folder / f"killed{seed}"
            command = [*words, f"out={out}"]
            hits += run_with_kills(command, out, KILLS, seed, within_s=seconds / (2 * KILLS))
            found = digests(out)
            names = expected.keys() | found.keys()
            differ += sum(expected.get(name) != found.get(name) for name in names)
    return {"kills": hits, "files": len(expected), "files_that_differ": differ}


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def scratch():
    return _Scratch()


class _Scratch(tempfile.TemporaryDirectory):
    def __enter__(self) -> Path:
        return Path(super().__enter__())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs, one round of kills")
    parser.add_argument("--json", help="result file to write")
    parser.add_argument("--videos", type=Path, help="folder of videos; default: the shared ones")
    arguments = parser.parse_args()
    shared = Path(os.environ.get("LRAS_SHARED") or ROOT.parent / "shared")
    videos = arguments.videos or shared / "data" / "videos"
    if not videos.is_dir():
        print("no shared videos; set LRAS_SHARED or pass --videos=DIR", file=sys.stderr)
        return CANNOT_MEASURE_HERE
    workers = min(4, len(os.sched_getaffinity(0)))
    seeds = [SEED] if arguments.quick else [SEED, SEED + 1, SEED + 2]
    rows = [
        measure_ratio(videos, size, pairs if arguments.quick else 9, workers)
        for size, pairs in QUICK_PAIRS.items()
    ]
    figures = {"ratio": rows, "kills": measure_kills(videos, seeds)}
    shown = Table("size px", "bare frames/s", "ingest frames/s", "ratio", "min", "max", "of CPU")
    for row in rows:
        names = ("size_px", "bare_frames_per_s", "ingest_frames_per_s", "ratio")
        shown.add_row(*(str(row[name]) for name in (*names, "ratio_min", "ratio_max", "cpu_ratio")))
    Console().print(shown)
    Console().print(figures["kills"])
    if arguments.json:
        path = Path(arguments.json)
        command = f"python benchmarks/data_ingest.py {shlex.join(sys.argv[1:])}"
        write_result(path.name, figures, command, seeds, folder=path.absolute().parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
