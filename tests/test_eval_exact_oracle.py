"""Who knows the truth is given every point: each task, from the command to results.json."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

import eval as door
from tests import fake_flow
from tests.exact_oracle import ExactOracle
from tests.fake_datasets import fake_track, write_flow_pair, write_tracks
from tracing.benchmarks import line_up

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
SEED = 3


def results_of(out, monkeypatch, *words):
    """The oracle, and the results that eval.py writes of it."""
    made = []

    def only_the_oracle(chosen, model, setup, patch_px, task, compare=True, options=None):
        made.append(ExactOracle(task.parts, SEED))
        return made, None

    monkeypatch.setattr(line_up, "line_up", only_the_oracle)
    monkeypatch.setenv("LRAS_RUNS", str(out / "runs"))
    words = ["tracer=zero_motion", f"seed={SEED}", *words]
    with initialize_config_dir(CONFIGS, version_base=None):
        HydraConfig.instance().set_config(compose("eval", words, return_hydra_config=True))
        cfg = compose("eval", words)
    run = out / "run"
    run.mkdir()
    with open(out / "said.txt", "w") as said:
        door.run(cfg, run, Console(file=said, width=120))
    (oracle,) = made
    return oracle, json.loads((run / "results.json").read_text())


def row_of(oracle, results):
    (row,) = results["tracers"]
    assert row["name"] == "oracle" and oracle.asked_points
    assert row["epe"] <= 1e-4 and row["delta_avg"] == 1
    return row


@pytest.mark.parametrize("scene", ["easy", "hard"])
def test_synthetic_scenes(tmp_path, monkeypatch, scene):
    words = ("task=synthetic", f"scene={scene}", "num_pairs=4")
    row = row_of(*results_of(tmp_path, monkeypatch, *words))
    assert row["hit"] == 1


def dense_of(oracle, results):
    """The scores over pixels, which must be those of who is right everywhere."""
    dense = row_of(oracle, results)["dense"]
    assert oracle.asked_pixels == dense["pairs"] > 0
    assert dense["epe"] <= 1e-4 and dense["epe_pooled"] <= 1e-4
    parts = ("s0_10", "s10_40", "s40", "epe_visible", "epe_occluded")
    assert all(dense[part] is None or dense[part] <= 1e-4 for part in parts)
    assert dense["px1"] == dense["px3"] == dense["px5"] == dense["px1_pooled"] == 1
    assert dense["fl_all"] == dense["fl_all_pooled"] == 0
    assert dense["wauc"] == pytest.approx(100)
    return dense


def test_points_and_pixels_of_frame_pairs(tmp_path, monkeypatch):
    for name, shift in (("a", (2, 1)), ("b", (-3, 2)), ("c", (0, 0))):
        write_flow_pair(tmp_path / "pairs" / name, shift, size=(24, 32), masks=True)
    words = ("task=flow_pairs", f"task.root={tmp_path / 'pairs'}")
    dense = dense_of(*results_of(tmp_path, monkeypatch, *words))
    assert dense["pairs"] == 3
    assert dense["s10_40"] is None and None not in (dense["epe_visible"], dense["epe_occluded"])


@pytest.mark.parametrize("name", fake_flow.DATASETS)
def test_points_and_pixels_of_published_flow(tmp_path, monkeypatch, name):
    if name == "spring":
        pytest.importorskip("h5py")
    root = fake_flow.DATASETS[name](tmp_path / "set")
    dense_of(*results_of(tmp_path, monkeypatch, f"task={name}", f"task.root={root}"))


@pytest.mark.parametrize("mode", ["first", "strided", "cfg"])
def test_point_tracks_of_every_query_mode(tmp_path, monkeypatch, mode):
    videos = {f"video{i}": fake_track((2 - i, 1), num_frames=9, seed=i) for i in range(2)}
    path = write_tracks(tmp_path / "tracks.pkl", videos)
    words = ("task=tapvid", f"task.path={path}", f"task.query_mode={mode}")
    row = row_of(*results_of(tmp_path, monkeypatch, *words))
    assert row["ad"] <= 1e-4
    assert row["oa"] == row["aj"] == row["of1"] == 1
    for name in ("delta", "jaccard"):
        assert torch.tensor([row[f"{name}_{px}"] for px in (1, 2, 4, 8, 16)]).eq(1).all()
