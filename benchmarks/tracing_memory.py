"""Memory that one call of the engine adds to a process, and the bound it promised.

    python benchmarks/tracing_memory.py --layout large --read-out all --max-tokens 8192

A process of its own, since memory that was used once seldom goes back. Prints one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch

from benchmarks.result_file import ROOT
from benchmarks.tracing_layouts import LARGE, NANO, SEED, random_model
from benchmarks.tracing_rows import OPTIONS, Bench, Case
from tracing.engine import EngineConfig
from tracing.estimate import estimate

LAYOUTS = {layout.name: layout for layout in (LARGE, NANO)}


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


class Peak(threading.Thread):
    """Looks at the memory of this process every 2 ms until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self.done = anonymous_bytes(), threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            self.bytes = max(self.bytes, anonymous_bytes())
            time.sleep(0.002)


def measure(case: Case, max_tokens: int) -> dict:
    """The most that tracing added to what the model and its libraries had taken, on a CPU."""
    bench = Bench(case.layout, random_model(case.layout), EngineConfig(max_tokens=max_tokens))
    engine, points = bench.fast(case), bench.points(case)
    small = Case(NANO, case.read_out, case.option, 2)  # so that libraries have loaded what they do
    warm = Bench(NANO, random_model(NANO))
    warm.fast(small)(warm.frame0, warm.frame1, warm.points(small), SEED)
    hw = (case.layout.image_px, case.layout.image_px)
    promised = estimate(engine, hw, case.queries, torch.device("cpu"))
    before, peak = anonymous_bytes(), Peak()
    peak.start()
    engine(bench.frame0, bench.frame1, points, SEED)
    peak.done.set()
    peak.join()
    return {
        "layout": case.layout.name,
        "read_out": case.read_out,
        "option": case.option,
        "queries": case.queries,
        "max_tokens": max_tokens,
        "tokens_in_flight": promised.tokens_in_flight,
        "promised_gb": promised.memory_bytes / 1e9,
        "peak_gb": (peak.bytes - before) / 1e9,
        "share_of_promise": (peak.bytes - before) / promised.memory_bytes,
    }


def measure_apart(case: Case, max_tokens: int, threads: int) -> dict:
    """``measure`` in a fresh process.

    Raises:
        RuntimeError: that process failed; carries its last words.
    """
    words = ["--layout", case.layout.name, "--read-out", case.read_out, "--option", case.option]
    words += ["--queries", case.queries, "--max-tokens", max_tokens, "--threads", threads]
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no words"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="large")
    parser.add_argument("--read-out", choices=("first", "all"), default="all")
    parser.add_argument("--option", choices=tuple(OPTIONS), default="exact")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=2**14)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = Case(LAYOUTS[options.layout], options.read_out, options.option, options.queries)
    print(json.dumps(measure(case, options.max_tokens)))


if __name__ == "__main__":
    main()
