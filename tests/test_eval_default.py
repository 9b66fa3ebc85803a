"""``python eval.py`` without a checkpoint, and without any argument at all."""

import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from doors import reference
from doors.reference import BEST, CHECKPOINTS, chosen_ckpt
from lras.checkpoint import load
from tests.offline_door import first_look, written

ROOT = Path(__file__).resolve().parents[1]


def test_where_nobody_names_a_model_those_who_need_one_ask_the_reference_model():
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        named = {name: compose("eval", [f"tracer={name}"]) for name in ("kl", "rgb", "zwm_compat")}
    for cfg in named.values():
        assert chosen_ckpt(cfg.ckpt, cfg.tracer.name) == str(CHECKPOINTS / BEST)
    assert load(CHECKPOINTS / BEST).image_size == 64


@pytest.mark.parametrize("tracer", ["dis", "zero_motion", "farneback", "misspelt"])
def test_baselines_get_no_model_that_nobody_named(tracer):
    assert chosen_ckpt("auto", tracer) is None


@pytest.mark.parametrize("ckpt", ["runs/mine", None])
@pytest.mark.parametrize("tracer", ["kl", "dis"])
def test_what_is_named_is_taken_and_null_is_none(ckpt, tracer):
    assert chosen_ckpt(ckpt, tracer) == ckpt


def test_a_reference_model_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CHECKPOINTS", tmp_path)
    with pytest.raises(ValueError, match=r"the reference model is not at .*; restore checkpoints/"):
        chosen_ckpt("auto", "kl")
    assert chosen_ckpt("auto", "dis") is None


def test_a_named_checkpoint_is_evaluated_as_before_whatever_the_first_look_does():
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        cfg = compose("eval", ["ckpt=RUN"], return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    assert (chosen.task, chosen.scene, cfg.num_pairs) == ("synthetic", "easy", 128)
    assert (cfg.tracer.cfg.num_masks, cfg.tracer.zoom.scales, cfg.controls) == (8, 1, True)


@pytest.mark.slow
def test_the_first_look_works_offline_in_another_folder_and_leaves_a_table_and_pictures(tmp_path):
    done, _ = first_look(ROOT, tmp_path)  # claims.py reference says how long it takes
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "a first look: python eval.py scene=hard num_pairs=16 tracer.cfg.num_masks=4\n"
    )
    rows = re.findall(r"^(\w+) +(\d+\.\d+) ", done.stdout, re.M)
    assert {"kl", "rgb", "zero_motion", "dis", "untrained"} <= {name for name, _ in rows}
    errors = {name: float(epe) for name, epe in rows}
    assert errors["kl"] < errors["zero_motion"] < errors["untrained"]
    files = written(done, tmp_path)
    assert all(path.is_relative_to(tmp_path) and path.exists() for path in files)
    pictures = [path for each in files if each.is_dir() for path in each.glob("*.png")]
    assert pictures and all(path.stat().st_size > 1000 for path in pictures)
    (file,) = [path for path in files if path.name == "results.json"]
    results = json.loads(file.read_text())  # what was not typed stands in it as if it had been
    assert results["provenance"]["command"].endswith(
        "eval.py scene=hard num_pairs=16 tracer.cfg.num_masks=4"
    )
    assert results["dataset"]["num_points"] == 64
