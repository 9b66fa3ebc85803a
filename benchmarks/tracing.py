"""What the tracing engine saves: time, tokens and FLOPs beside the slow reference, and memory.

    python benchmarks/tracing.py --quick --json benchmarks/results/engine.json    under ten minutes
    python benchmarks/tracing.py --json FILE                                      an hour or more

Fast and slow take turns in one process. ``bound`` is FLOPs of the slow reference / FLOPs executed,
``ratio`` the median of slow / fast seconds per query over the pairs of a row, ``of bound`` their
quotient. A row's slow time is that of a few of its queries, extrapolated to all. The table is of
the CPU, and of an accelerator too where there is one; ``--device`` asks for one of them alone.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.result_file import CANNOT_MEASURE_HERE, write_result
from benchmarks.tracing_layouts import LARGE, NANO, SEED, Layout, random_model
from benchmarks.tracing_memory import measure_apart
from benchmarks.tracing_rows import (
    BOTH,
    REVEAL_RATIO,
    Bench,
    Case,
    Row,
    quick_cases,
    whole_cases,
)

COUNTS = (1, 4, 16, 64, 256, 1024)  # queries of the curve of costs
QUICK_LARGE = (1, 4, 16)
MEMORY = (
    (Case(LARGE, "all", "exact", 8), 2**14),
    (Case(LARGE, "all", "exact", 8), 2**15),
    (Case(LARGE, "first", BOTH, 64), 2**14),
    (Case(NANO, "all", "exact", 256), 2**13),
)
COLUMNS = ("layout", "read", "option", "queries", "tokens", "GFLOP fast", "slow", "bound")
COLUMNS += ("ratio", "of bound", "ms a query", "of slow", "points/s")


class Benches:
    """A bench for each layout, made when it is first asked for."""

    def __init__(self, device: str) -> None:
        self.device, self._made = device, {}

    def of(self, layout: Layout) -> Bench:
        if layout not in self._made:
            self._made[layout] = Bench(layout, random_model(layout, self.device))
        return self._made[layout]


def measured(benches: Benches, cases: Iterable[Case]) -> Iterator[Row]:
    """Rows as they come; what is going on is told on stderr."""
    for case in cases:
        start = time.monotonic()
        row = benches.of(case.layout).measure(case)
        took = time.monotonic() - start
        print(f"{benches.device}: {case.title}: {row.ratio:.1f}x, {took:.0f} s", file=sys.stderr)
        yield row


def table(rows: Iterable[Row]) -> Table:
    shown = Table(*COLUMNS, title="tokens and FLOPs per query and reveal mask")
    for row in rows:
        case = row.case
        shown.add_row(
            case.layout.name,
            case.read_out,
            case.option,
            f"{row.queries} {case.spread}",
            f"{row.fast_tokens:,.0f} of {row.slow_tokens:,.0f}",
            f"{row.fast_flops / 1e9:.2f}",
            f"{row.slow_flops / 1e9:.2f}",
            f"{row.bound:.2f}",
            f"{row.ratio:.2f}",
            f"{row.efficiency:.2f}",
            f"{1e3 * statistics.median(row.fast_seconds):.1f}",
            f"{1e3 * statistics.median(row.slow_seconds):.1f}",
            f"{1 / statistics.median(row.fast_seconds):.1f}",
        )
    return shown


def agreement(rows: Iterable[Row]) -> dict[str, dict]:
    """How far fast and slow are apart, layout by layout; the worst over all rows that compare."""
    found: dict[str, dict] = {}
    for row in rows:
        if not row.compared:
            continue
        own = found.setdefault(
            row.case.layout.name,
            {"queries": 0, "same_argmax": 0, "worst_of_allowed": 0.0, "smallest_peak_nats": 1e9},
        )
        own["queries"] += row.compared
        own["same_argmax"] += row.same_argmax
        own["worst_of_allowed"] = max(own["worst_of_allowed"], row.worst_difference)
        own["smallest_peak_nats"] = min(own["smallest_peak_nats"], row.smallest_peak_nats)
    return found


def costs(bench: Bench, option: str, counts: Iterable[int], repeats: int = 3) -> list[dict]:
    """Seconds, tokens and GFLOP of a query among so many; the fastest of a few calls."""
    found = []
    for count in counts:
        case = Case(bench.layout, "first", option, count)
        engine, points, seconds = bench.fast(case), bench.points(case), []
        for _ in range(repeats if count <= 64 else 1):
            bench.meter.reset()
            _, spent = bench.timed(engine, bench.frame0, bench.frame1, points, SEED)
            seconds.append(spent / count)
        found.append(
            {
                "layout": bench.layout.name,
                "option": option,
                "queries": count,
                "seconds": min(seconds),
                "tokens": bench.meter.tokens / count,
                "gflop": bench.meter.flops / count / 1e9,
            }
        )
    return found


def report(device: str, quick: bool, console: Console) -> dict:
    """Measure and print all that is asked of a device; JSON-ready."""
    benches, quick = Benches(device), quick and device == "cpu"
    rows = list(measured(benches, quick_cases() if quick else whole_cases()))
    console.print(table(rows))
    agree = agreement(rows)
    for name, own in agree.items():
        console.print(
            f"{name}: arg-max the same in {own['same_argmax']} of {own['queries']} queries, worst "
            f"difference {own['worst_of_allowed']:.2f} of what is allowed"
        )
    curve = costs(benches.of(NANO), "exact", COUNTS)
    curve += costs(benches.of(LARGE), BOTH, QUICK_LARGE if quick else COUNTS)
    for point in curve:
        console.print(
            "{layout}, {option}, {queries} queries: {ms:.2f} ms, {tokens:,.0f} tokens and "
            "{gflop:.2f} GFLOP a query".format(ms=1e3 * point["seconds"], **point)
        )
    return {"rows": [row.as_dict() for row in rows], "agreement": agree, "costs": curve}


def memory(threads: int, console: Console) -> list[dict]:
    """Peak memory of fresh processes beside what was promised; CPU only."""
    found = []
    for case, max_tokens in MEMORY:
        found.append(measure_apart(case, max_tokens, threads))
        console.print(
            "{layout}, {read_out}, {option}, {queries} queries, max_tokens {max_tokens}: "
            "{peak_gb:.2f} GB of {promised_gb:.2f} promised".format(**found[-1])
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer queries and pairs on a CPU")
    parser.add_argument("--json", type=Path, help="result file to write")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="this one alone")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("the engine was not measured: no accelerator is at hand.", file=sys.stderr)
        return CANNOT_MEASURE_HERE
    torch.set_num_threads(options.threads)
    console, start = Console(width=None if sys.stdout.isatty() else 160), time.monotonic()
    console.print(f"{LARGE.title}\n{NANO.title}\nrevealed: {REVEAL_RATIO:.0%}, one mask")
    figures: dict = {"threads": options.threads, "quick": options.quick}
    if options.device != "cuda":
        figures["cpu"] = report("cpu", options.quick, console)
        figures["memory"] = memory(options.threads, console)
    if torch.cuda.is_available() and options.device != "cpu":
        console.print(torch.cuda.get_device_name())
        figures["cuda"] = report("cuda", options.quick, console)
    figures["minutes"] = round((time.monotonic() - start) / 60, 2)
    console.print(f"{figures['minutes']} minutes")
    if options.json:
        command = shlex.join(["python", "benchmarks/tracing.py", *sys.argv[1:]])
        write_result(options.json.name, figures, command, [SEED], options.json.resolve().parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
