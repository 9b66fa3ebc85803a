"""Our scores of given predictions beside what independent public evaluators printed for them.

The cases are those of ``$LRAS_REFEREE`` (tapvid_*.npz, flow_expected.json) and the frame pairs
those of ``$LRAS_FLOW_GT``; without these variables the shared ones.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.claim import Figure, NotMeasuredError
from benchmarks.result_file import ROOT
from data.readers.flow_pairs import read_flow_pairs
from tracing.baselines import DIS, Farneback, ZeroMotion
from tracing.metrics.flow import pair_scores, pair_sums
from tracing.metrics.tracks import video_scores

PX = (1, 2, 4, 8, 16)
TRACKS = {  # ours -> the referee's
    "ad": "avg_distance",
    "ad_median": "median_distance",
    "oa": "occlusion_accuracy",
    "aj": "average_jaccard",
    "delta_avg": "average_pts_within_thresh",
    **{f"occ_{kind}": f"occ_{kind}" for kind in ("tp", "fp", "fn")},
    **{f"delta_{px}": f"pts_within_{px}" for px in PX},
    **{f"jaccard_{px}": f"jaccard_{px}" for px in PX},
}
FLOW = {name: name for name in ("epe", "px1", "px3", "px5", "wauc", "s0_10", "s10_40")}
FLOW |= {"s40": "s40+"}
METHODS = {"zero": ZeroMotion, "dis_medium": DIS, "farneback": Farneback}
PRINTED = {"epe": 1, "flall": 3, "wauc": 4}  # the referee's name -> which word of a printed row


def shared(variable: str, *below: str) -> Path:
    """The folder that an environment variable names, else that of the shared data.

    Raises:
        NotMeasuredError: it is not there.
    """
    root = Path(os.environ.get("LRAS_SHARED") or ROOT.parent / "shared")
    folder = Path(os.environ.get(variable) or root.joinpath(*below))
    if not folder.is_dir():
        raise NotMeasuredError(f"no folder {folder.name}; set {variable}")
    return folder.resolve()


def flow_expected() -> tuple[dict, bool]:
    """Figures by pair and method, and whether OpenCV is of the referee's version here."""
    folder = shared("LRAS_REFEREE", "golden", "referee")
    figures = json.loads((folder / "flow_expected.json").read_text())
    version = figures.pop("_versions", {}).get("opencv-python-headless", cv2.__version__)
    return figures, version.split(".")[:2] == cv2.__version__.split(".")[:2]


def worst_track_difference() -> Figure:
    """Largest difference of any figure of any case."""
    cases = sorted(shared("LRAS_REFEREE", "golden", "referee").glob("tapvid_*.npz"))
    apart = {}
    for path in cases:
        saved = np.load(path, allow_pickle=False)
        pred, target = (torch.from_numpy(saved[f"{of}_tracks_xy"]) for of in ("pred", "gt"))
        called, visible = (torch.from_numpy(~saved[f"{of}_occluded"]) for of in ("pred", "gt"))
        frame = torch.from_numpy(saved["query_tyx"][:, :1]).long()
        is_query = torch.arange(visible.shape[1]) == frame
        ours = video_scores(pred, target, called, visible, is_query, str(saved["mode"]))
        for own, theirs in TRACKS.items():
            expected = json.loads(str(saved["expected"]))
            if theirs in expected:
                apart[path.stem, own] = abs(ours[own] - expected[theirs])
    (case, score), worst = max(apart.items(), key=lambda item: item[1])
    return Figure(worst, f"{len(apart)} figures of {len(cases)} cases; {score} of {case}")


def worst_flow_difference() -> Figure:
    """Largest difference of any figure but Fl-all, of any pair by any method.

    Raises:
        NotMeasuredError: OpenCV is of another version, whose flows are others.
    """
    apart, _ = _flow_apart()
    (pair, method, score), worst = max(apart.items(), key=lambda item: item[1])
    return Figure(worst, f"{len(apart)} figures; {score} of {method} on {pair}")


def worst_outlier_count() -> Figure:
    """Pixels by which the outliers of Fl-all differ at most; errors as there."""
    _, pixels = _flow_apart()
    return Figure(max(pixels.values()), f"of {len(pixels)} fields")


def _flow_apart() -> tuple[dict[tuple[str, str, str], float], dict[tuple[str, str], float]]:
    figures, same = flow_expected()
    if not same:
        raise NotMeasuredError(f"OpenCV {cv2.__version__} is not the referee's")
    apart, pixels = {}, {}
    pairs = {pair.name: pair for pair in read_flow_pairs(shared("LRAS_FLOW_GT", "data", "flow_gt"))}
    for name, methods in figures.items():
        pair = pairs[name]
        for method, theirs in methods.items():
            flow = METHODS[method]().dense_flow(pair.frame0[None], pair.frame1[None])[0]
            sums = pair_sums(flow, pair.flow, pair.valid)
            scores = pair_scores(sums)
            for own, other in FLOW.items():
                if theirs[other] is not None:
                    apart[name, method, own] = abs(scores[own] - theirs[other])
            pixels[name, method] = abs(sums["fl_all"][0] / 100 - theirs["n_bad"])
    return apart, pixels


def evaluated(*words: str) -> tuple[str, dict]:
    """What ``python eval.py`` prints and the results it leaves.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "eval.py", *words, f"hydra.run.dir={folder}/run"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return done.stdout, json.loads(Path(folder, "run", "results.json").read_text())


def worst_printed_difference() -> Figure:
    """EPE, Fl-all and WAUC of DIS as ``eval.py`` prints them, pair by pair and their means.

    Raises:
        NotMeasuredError: OpenCV is of another version, whose DIS is another.
    """
    figures, same = flow_expected()
    if not same:
        raise NotMeasuredError(f"OpenCV {cv2.__version__} is not the referee's")
    root = shared("LRAS_FLOW_GT", "data", "flow_gt")
    said, _ = evaluated("tracer=dis", "task=flow_pairs", f"task.root={root}", "compare=false")
    return compare_printed(said, {pair: own["dis_medium"] for pair, own in figures.items()})


def compare_printed(said: str, figures: dict[str, dict]) -> Figure:
    """The largest difference between printed rows and figures by pair, and their means."""
    _, _, dense = said.partition("every valid pixel of")
    means, _, pairs = dense.partition("pair by pair")
    found = {words[0]: words for words in map(str.split, pairs.splitlines()) if words}
    apart = [
        abs(float(found[pair][place]) - figures[pair][name])
        for pair in figures
        for name, place in PRINTED.items()
    ]
    (row, *_) = (line.split() for line in means.splitlines() if line.startswith("dis"))
    for name, place in {"epe": 1, "flall": 5, "wauc": 6}.items():
        mean = sum(own[name] for own in figures.values()) / len(figures)
        apart.append(abs(float(row[place]) - mean))
    note = f"{len(figures)} pairs; means EPE {row[1]} px, Fl-all {row[5]} %, WAUC {row[6]} %"
    return Figure(max(apart), note)


def real_tracks() -> Figure:
    """Points of real annotated tracks that ``eval.py`` scores for DIS."""
    path = shared("LRAS_TRACKS", "data", "tracks") / "tapvid_pairs_long.pkl"
    _, results = evaluated("tracer=dis", "task=tapvid", f"task.path={path}", "compare=false")
    (row,) = results["tracers"]
    note = f"delta_avg {100 * row['delta_avg']:.1f} %, AJ {100 * row['aj']:.1f} %, "
    note += f"OA {100 * row['oa']:.1f} %, AD {row['ad']:.2f} px"
    return Figure(results["dataset"]["num_points"], note)
