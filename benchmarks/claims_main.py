"""The promises of the main job: train an LRAS, trace flow out of it, evaluate it.

Names that ``figures`` carries, by result file. EPE is in pixels over the same points for every
tracer of a file; lengths of time are minutes of wall-clock on 2 cores.

easy_seed0.json, easy_seed1.json, easy_seed2.json (whole-patch motion to +-8 px, camera only)
    epe_px            {kl, zero_motion, dis, best_translation, nearest_patch_color,
                       untrained, random_point, zero_amplitude}: the last three are the controls
    num_points        visible held-out points that moved at least 4 px; all of the above use them
    target_revealed_share  share of points whose true patch every mask revealed, in [0, 1]; they
                      stand in the EPE as the errors they are
    minutes           quantizer and training, and on easy scenes evaluation too
    evaluation_minutes  of the evaluation alone
    trained_with, evaluated_at   command of the training; commit of the evaluation
hard.json (sub-pixel to +-8 px, several layers, occlusion), as above but num_points is of visible
moving pixels, drawn uniformly; and
    epe_px            {..., rgb}: the RGB-difference tracer
    rgb_minus_kl_ci95_px  [low, high]: paired bootstrap of EPE(rgb) - EPE(kl) over the points
    num_moving_layers     least number of independently moving layers in a scene
    shared_textures       textures of the test scenes that training saw too
    log               path of the run's log from the repository root
real_video.json (16 clips ingested, trained on, traced on frame pairs with ground truth)
    num_videos        videos of which at least one clip was written
    num_pairs         frame pairs in the table
    loss_first_tenth_nats, loss_last_tenth_nats   mean training loss of 10 % of the steps
    unigram_entropy_nats  of the codes of the training clips
    input_px          side of the square the model was given
    epe_px            {kl, dis, zero_motion}, in pixels of the pairs as stored
    minutes           training alone
suite_times.json
    make_test_minutes, quick_minutes     ``make test``; ``pytest -m "not slow"``
    make_test_failures, quick_failures   tests that failed
"""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import exact
from benchmarks.claim import Claim, Figure, NotMeasuredError, Target
from benchmarks.result_file import ROOT, read_result

EASY = {seed: f"easy_seed{seed}.json" for seed in (0, 1, 2)}
HARD, REAL, SUITE = "hard.json", "real_video.json", "suite_times.json"

# Result file -> what makes it the first time. Afterwards the command in the file counts.
COMMANDS: dict[str, str] = {
    **{name: f"python benchmarks/measure_main.py easy {seed}" for seed, name in EASY.items()},
    HARD: "python benchmarks/measure_main.py hard",
    REAL: "python benchmarks/measure_main.py real",
    SUITE: "python benchmarks/measure_main.py suite",
}

Read = Callable[[dict], Figure]


def from_file(
    result: str, scope: str, what: str, read: Read, compare: str, number: float, unit: str = ""
) -> Claim:
    """A promise whose figure is computed from the ``figures`` of a result file."""

    def measure() -> Figure:
        return read(read_result(result)["figures"])

    target = Target(compare, number, unit)
    return Claim(what=f"{scope}: {what}", target=target, measure=measure, result=result)


def plain(name: str) -> Read:
    """The figure as it stands in the file."""
    return lambda figures: Figure(float(figures[name]))


def epe_ratio(figures: dict) -> Figure:
    kl, zero = figures["epe_px"]["kl"], figures["epe_px"]["zero_motion"]
    return Figure(kl / zero, f"{kl:.3f} px of {zero:.3f} px")


def weakest_control(figures: dict) -> Figure:
    """Smallest control / zero motion: far below 1, the answer would have leaked into the method."""
    epe = figures["epe_px"]
    names = ("untrained", "random_point", "zero_amplitude")
    ratios = {name: epe[name] / epe["zero_motion"] for name in names}
    note = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return Figure(math.nan if any(map(math.isnan, ratios.values())) else min(ratios.values()), note)


def in_table(*names: str) -> Read:
    """How many of these tracers stand in the table with a finite EPE."""

    def read(figures: dict) -> Figure:
        found = {name: float(figures["epe_px"].get(name, math.nan)) for name in names}
        note = ", ".join(f"{name} {epe:.2f} px" for name, epe in found.items())
        return Figure(sum(map(math.isfinite, found.values())), note)

    return read


def rgb_behind(figures: dict) -> Figure:
    low, high = figures["rgb_minus_kl_ci95_px"]
    return Figure(low, f"95 % interval {low:.3f} to {high:.3f} px")


def log_lines(figures: dict) -> Figure:
    return Figure(len((ROOT / figures["log"]).read_text().splitlines()), figures["log"])


def loss_ratio(figures: dict) -> Figure:
    first, last = figures["loss_first_tenth_nats"], figures["loss_last_tenth_nats"]
    return Figure(last / first, f"{last:.3f} of {first:.3f} nats")


def loss_under_unigram(figures: dict) -> Figure:
    last, unigram = figures["loss_last_tenth_nats"], figures["unigram_entropy_nats"]
    return Figure(last - unigram, f"{last:.3f} against {unigram:.3f} nats")


def real_table(figures: dict) -> Figure:
    table = in_table("kl", "dis", "zero_motion")(figures)
    note = f"{table.note}; {figures['num_pairs']} pairs, input {figures['input_px']} px"
    return Figure(table.value, note)


def scene_claims(result: str, scope: str, most: float, minutes: float, timed: str) -> list[Claim]:
    """What easy and hard scenes promise alike."""
    claim = partial(from_file, result, scope)
    baselines = in_table("dis", "best_translation", "nearest_patch_color")
    return [
        claim("EPE(KL) / EPE(zero motion)", epe_ratio, "<=", most),
        claim(timed, plain("minutes"), "<=", minutes, "min"),
        claim("weakest control / zero motion", weakest_control, ">=", 0.9),
        claim("baselines in the table", baselines, "==", 3),
        claim("share of targets every mask revealed", plain("target_revealed_share"), "<=", 0.01),
    ]


def easy_claims(seed: int) -> list[Claim]:
    scope = f"easy scenes, seed {seed}"
    claim = partial(from_file, EASY[seed], scope)
    points = claim("visible held-out points that moved >= 4 px", plain("num_points"), ">=", 256)
    return [
        *scene_claims(EASY[seed], scope, most=0.4, minutes=15, timed="training and evaluation"),
        points,
    ]


def hard_claims() -> list[Claim]:
    claim = partial(from_file, HARD, "hard scenes")
    return [
        *scene_claims(HARD, "hard scenes", most=0.5, minutes=75, timed="training"),
        claim("EPE(RGB) - EPE(KL), low end of 95 % interval", rgb_behind, ">", 0, "px"),
        claim("independently moving layers", plain("num_moving_layers"), ">=", 2),
        claim("test textures that training saw", plain("shared_textures"), "==", 0),
        claim("lines in the log that was kept", log_lines, ">=", 1),
    ]


def real_claims() -> list[Claim]:
    claim = partial(from_file, REAL, "real video")
    return [
        claim("videos ingested", plain("num_videos"), "==", 16),
        claim("loss, last 10 % of steps / first 10 %", loss_ratio, "<=", 0.95),
        claim("loss, last 10 % - unigram entropy", loss_under_unigram, "<", 0, "nats"),
        claim("KL, DIS and zero motion in one table", real_table, "==", 3),
    ]


def plain_trainer_tests() -> Figure:
    """Failures among the tests that run our modules in a bare ``lightning.Trainer``."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "plain_trainer", "tests"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1]
    if done.returncode == 5:  # pytest's own status for "no tests collected"
        raise NotMeasuredError("no test has plain_trainer in its name")
    passed = re.search(r"(\d+) passed", last)
    return Figure(math.nan if done.returncode else 0, passed.group() if passed else last)


def quick_claims() -> list[Claim]:
    cells = Target("<=", 0.5, "cells")
    oracle_claims = [
        Claim(
            what=f"oracle: worst trace, placement {placement}, {side}/{patch_px}/{code_px} px",
            target=cells,
            measure=partial(exact.worst_error, placement, side, patch_px, code_px),
        )
        for placement in ("patch", "query")
        for side, patch_px, code_px in exact.GEOMETRIES
    ]
    return [
        *oracle_claims,
        Claim(
            what="reveal masks that change with the second frame",
            target=Target("==", 0),
            measure=exact.masks_that_differ,
        ),
        Claim(
            what="modules in a plain Trainer: failing tests",
            target=Target("==", 0),
            measure=plain_trainer_tests,
        ),
    ]


def suite_claims() -> list[Claim]:
    claim = partial(from_file, SUITE, "tests")
    return [
        claim("make test", plain("make_test_minutes"), "<", 20, "min"),
        claim("make test, failures", plain("make_test_failures"), "==", 0),
        claim('pytest -m "not slow"', plain("quick_minutes"), "<", 5, "min"),
        claim('pytest -m "not slow", failures', plain("quick_failures"), "==", 0),
    ]


CLAIMS = [
    *(claim for seed in EASY for claim in easy_claims(seed)),
    *hard_claims(),
    *real_claims(),
    *quick_claims(),
    *suite_claims(),
]
