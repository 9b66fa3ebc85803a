"""Scores of tracks against what independent public evaluators print, to 1e-6.

The cases are the ``tapvid_*.npz`` of the folder ``$LRAS_REFEREE``, else of the shared golden files.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import find_shared
from torchmetrics import MetricCollection

from tracing.metrics import classes, functional
from tracing.metrics.tracks import mean_over_videos, video_scores

AGREE = 1e-6
PX = (1, 2, 4, 8, 16)
NAMED = {  # ours: theirs
    "ad": "avg_distance",
    "ad_median": "median_distance",
    "oa": "occlusion_accuracy",
    "aj": "average_jaccard",
    "delta_avg": "average_pts_within_thresh",
    "occ_tp": "occ_tp",
    "occ_fp": "occ_fp",
    "occ_fn": "occ_fn",
    **{f"delta_{px}": f"pts_within_{px}" for px in PX},
    **{f"jaccard_{px}": f"jaccard_{px}" for px in PX},
}


def referee_folder():
    if named := os.environ.get("LRAS_REFEREE"):
        return Path(named)
    shared = find_shared()
    return None if shared is None else shared / "golden" / "referee"


FOLDER = referee_folder()
CASES = [] if FOLDER is None else sorted(FOLDER.glob("tapvid_*.npz"))
NEEDS_SHARED = () if "LRAS_REFEREE" in os.environ else (pytest.mark.shared,)


def of_referee(test):
    names = [path.stem for path in CASES]
    marks = [*NEEDS_SHARED, pytest.mark.parametrize("path", CASES or [None], ids=names or None)]
    for mark in marks:
        test = mark(test)
    return test


def read(path):
    """pred, target, pred_visible, visible, query_frame, mode, expected."""
    saved = np.load(path, allow_pickle=False)
    pred, target = (torch.from_numpy(saved[f"{k}_tracks_xy"]) for k in ("pred", "gt"))
    called, visible = (torch.from_numpy(~saved[f"{k}_occluded"]) for k in ("pred", "gt"))
    query_frame = torch.from_numpy(saved["query_tyx"][:, 0]).long()
    expected = json.loads(str(saved["expected"]))
    return pred, target, called, visible, query_frame, str(saved["mode"]), expected


def scores_of(path):
    pred, target, called, visible, query_frame, mode, expected = read(path)
    is_query = torch.arange(visible.shape[1]) == query_frame[:, None]
    return video_scores(pred, target, called, visible, is_query, mode), expected


def agree(ours, expected):
    for name, theirs in NAMED.items():
        if theirs in expected:
            assert ours[name] == pytest.approx(expected[theirs], abs=AGREE), name


@of_referee
def test_a_video_scores_what_independent_evaluators_print(path):
    scores, expected = scores_of(path)
    missing = set(NAMED.values()) - set(expected)
    # In mode strided the referees print neither distances nor occlusion counts.
    assert all(name.startswith(("avg_", "median_", "occ_")) for name in missing)
    agree(scores, expected)


@of_referee
def test_the_mean_of_one_video_is_that_video_with_f1_of_its_counts(path):
    scores, expected = scores_of(path)
    mean = mean_over_videos([scores])
    agree(mean, expected)
    if "occ_tp" in expected:
        precision = expected["occ_tp"] / (expected["occ_tp"] + expected["occ_fp"])
        recall = expected["occ_tp"] / (expected["occ_tp"] + expected["occ_fn"])
        f1 = 2 * precision * recall / (precision + recall)
        assert mean["of1"] == pytest.approx(f1, abs=AGREE)


@of_referee
def test_the_metric_classes_agree_too(path):
    pred, target, called, visible, query_frame, mode, expected = read(path)
    kinds = {
        "ad": classes.AverageDistance,
        "delta_avg": classes.DeltaAvg,
        "oa": classes.OcclusionAccuracy,
        "aj": classes.AverageJaccard,
    }
    metrics = MetricCollection({name: kind(mode) for name, kind in kinds.items()})
    metrics.update(query_frame, target, visible, pred, called)
    for name, value in metrics.compute().items():
        if NAMED[name] in expected:
            assert value.item() == pytest.approx(expected[NAMED[name]], abs=AGREE), name
    evaluated = functional.evaluated_frames(query_frame, visible.shape[1], mode)
    jaccards = functional.jaccard_per_threshold(pred, target, called, visible, evaluated)
    deltas = functional.delta_per_threshold(pred, target, visible & evaluated)
    for px, jaccard, delta in zip(PX, jaccards.tolist(), deltas.tolist(), strict=True):
        assert jaccard == pytest.approx(expected[f"jaccard_{px}"], abs=AGREE)
        assert delta == pytest.approx(expected[f"pts_within_{px}"], abs=AGREE)


@pytest.mark.skipif(FOLDER is None, reason="no shared data and no $LRAS_REFEREE")
def test_the_folder_holds_cases():
    assert CASES, f"no tapvid_*.npz in {FOLDER}; set LRAS_REFEREE to a folder that has some"
    if "LRAS_REFEREE" not in os.environ:
        assert {read(path)[5] for path in CASES} == {"first", "strided"}
