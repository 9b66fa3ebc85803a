"""The promises of benchmarks and metrics: evaluators agree, and who is perfect scores so.

Names that ``figures`` carries, by result file.

track_metrics.json (250 videos x 256 tracks x 24 frames, one process, turns taken video by video)
    ratio             slow twin / ours, wall-clock, median over videos; smallest_ratio of all
    fast_s, slow_s    seconds of both in all
    largest_difference   of any score between the two
"""

from functools import cache, partial

from benchmarks.claim import Figure
from benchmarks.claims_main import from_file
from benchmarks.claims_official import on_the_spot, tests_pass
from benchmarks.readout_floors import floors
from benchmarks.referee import (
    real_tracks,
    worst_flow_difference,
    worst_outlier_count,
    worst_printed_difference,
    worst_track_difference,
)

SPEED = "track_metrics.json"
COMMANDS = {SPEED: f"python benchmarks/track_metrics.py --json benchmarks/results/{SPEED}"}
FLOOR_POINTS = 1_000_000


@cache
def floor_rows() -> list[dict]:
    return floors(FLOOR_POINTS, seed=0)


def worst_floor(name: str) -> Figure:
    """Largest difference to the floors known from elsewhere, over all cases."""
    rows = floor_rows()
    worst = max(abs(row[name] - row[f"expected_{name}"]) for row in rows)
    return Figure(worst, f"{len(rows)} cases of {FLOOR_POINTS:,} points")


def speed(figures: dict) -> Figure:
    note = f"{figures['fast_s']:.1f} s and {figures['slow_s']:.0f} s, {figures['videos']} videos, "
    note += f"scores differ by {figures['largest_difference']:.0e}"
    return Figure(figures["ratio"], note)


CLAIMS = [
    on_the_spot("referee, tracks: worst difference", worst_track_difference, "<=", 1e-6),
    on_the_spot("referee, flow: worst difference", worst_flow_difference, "<=", 1e-4),
    on_the_spot("referee, flow: outliers of Fl-all", worst_outlier_count, "<=", 1.001, "pixels"),
    on_the_spot("eval.py, DIS: as printed, to the referee", worst_printed_difference, "<=", 0.01),
    on_the_spot("eval.py, DIS on real tracks: points", real_tracks, ">", 0),
    tests_pass("oracle, 0 px and 100 % on every task", "tests/test_eval_exact_oracle.py"),
    on_the_spot(
        "read-out floors, delta_avg: worst difference",
        partial(worst_floor, "delta_avg_percent"),
        "<=",
        0.1,
        "points",
    ),
    on_the_spot("read-out floors, AD: worst difference", partial(worst_floor, "ad_px"), "<=", 0.1),
    tests_pass("kill -9 and again: the same results", "tests/test_eval_resume.py -k kill"),
    from_file(SPEED, "metrics of tracks", "slow twin / ours", speed, ">=", 5),
    tests_pass("what is not to be had, said once", "tests/test_tracing_baselines_learned.py"),
]
