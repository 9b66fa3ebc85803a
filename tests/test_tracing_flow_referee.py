"""Flow figures of an independent evaluator on real pairs: $LRAS_REFEREE, $LRAS_FLOW_GT.

Other sets in the same format can be checked by naming their folders in these variables.
"""

import json
import os
from pathlib import Path

import cv2
import pytest
import torch
from rich.console import Console

from data.readers.flow_pairs import read_flow_pairs
from tracing.baselines import DIS, Farneback, ZeroMotion
from tracing.benchmarks.flow import FlowPairs
from tracing.benchmarks.flow_tables import print_dense
from tracing.metrics.flow import pair_scores, pair_sums

METHODS = {"zero": ZeroMotion(), "dis_medium": DIS(), "farneback": Farneback()}
SAME = {  # ours -> the referee's
    "epe": "epe",
    "px1": "px1",
    "px3": "px3",
    "px5": "px5",
    "wauc": "wauc",
    "s0_10": "s0_10",
    "s10_40": "s10_40",
    "s40": "s40+",
}

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def expected(shared_root):
    folder = Path(os.environ.get("LRAS_REFEREE") or shared_root / "golden" / "referee")
    figures = json.loads((folder / "flow_expected.json").read_text())
    of_opencv = figures.pop("_versions", {}).get("opencv-python-headless", cv2.__version__)
    return figures, of_opencv.split(".")[:2] == cv2.__version__.split(".")[:2]


@pytest.fixture(scope="module")
def pairs_root(shared_root):
    return Path(os.environ.get("LRAS_FLOW_GT") or shared_root / "data" / "flow_gt")


@pytest.fixture(scope="module")
def scored(pairs_root):
    """Sums of every pair by every method: pair -> method -> sums."""
    return {
        pair.name: {
            method: pair_sums(
                tracer.dense_flow(pair.frame0[None], pair.frame1[None])[0], pair.flow, pair.valid
            )
            for method, tracer in METHODS.items()
        }
        for pair in read_flow_pairs(pairs_root)
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_pair_has_the_referees_figures(scored, expected, method):
    figures, same_opencv = expected
    if method != "zero" and not same_opencv:
        pytest.skip(f"OpenCV {cv2.__version__} is not the referee's; its flow differs")
    assert set(scored) == set(figures)
    for name, methods in scored.items():
        own, theirs, sums = pair_scores(methods[method]), figures[name][method], methods[method]
        for ours, other in SAME.items():
            wanted = theirs[other]
            assert own[ours] == (wanted if wanted is None else pytest.approx(wanted, abs=1e-4)), (
                name,
                ours,
            )
        assert sums["epe"] == (pytest.approx(theirs["sum_epe"], rel=1e-6), theirs["n_valid"])
        bad = sums["fl_all"][0] / 100
        assert abs(bad - theirs["n_bad"]) <= 1 + 1e-6, name
        assert abs(own["fl_all"] - theirs["flall"]) <= 101 / theirs["n_valid"], name


def test_the_task_prints_and_keeps_the_referees_means(pairs_root, expected):
    figures, same_opencv = expected
    if not same_opencv:
        pytest.skip(f"OpenCV {cv2.__version__} is not the referee's; its flow differs")
    task = FlowPairs(pairs_root, points_per_pair=4, seed=0)
    rows = task.score(task.adapt(DIS()), task.parts, 0, patch_px=4)
    console = Console(record=True, width=110)
    print_dense(rows, console)
    line = next(t for t in console.export_text().splitlines() if t.startswith("dis@native "))
    printed = [float(cell) for cell in line.split()[1:]]
    theirs = [methods["dis_medium"] for methods in figures.values()]
    for place, key in (0, "epe"), (4, "flall"), (5, "wauc"):
        mean = sum(each[key] for each in theirs) / len(theirs)
        assert printed[place] == pytest.approx(mean, abs=1e-2)
    for pair in task.dense_pairs(rows):
        own, wanted = pair["scores"]["dis@native"], figures[pair["name"]]["dis_medium"]
        for ours, other in ("epe", "epe"), ("fl_all", "flall"), ("wauc", "wauc"):
            assert own[ours] == pytest.approx(wanted[other], abs=1e-2)


def test_the_number_of_opencv_threads_changes_nothing(pairs_root):
    pair = next(read_flow_pairs(pairs_root))
    before = cv2.getNumThreads()
    try:
        fields = []
        for count in 1, 2:
            cv2.setNumThreads(count)
            fields.append(DIS().dense_flow(pair.frame0[None], pair.frame1[None]))
    finally:
        cv2.setNumThreads(before)
    assert torch.equal(*fields)
