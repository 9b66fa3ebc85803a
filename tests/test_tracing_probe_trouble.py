"""FlowProbe where something is missing, broken or shared: bad input, real data, several ranks."""

import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from lras.checkpoint import save
from tests.test_plain_trainer import SCENE, plain_trainer, predictor_module, scenes
from tests.test_tracing_probe import TRACER, held_out, probe
from tests.tiny_model import tiny_model
from tracing.probe import FlowProbe, flow_folder, probe_set, synthetic, tapvid
from tracing.probe.ranks import answers_of_all_ranks
from tracing.probe.scores import Answer

ROOT = Path(__file__).resolve().parents[1]


# --- bad input ---------------------------------------------------------------------------------


def test_sets_that_are_missing_or_empty_are_named_before_training(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        flow_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        flow_folder(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"real_pairs\.root=DIR"):
        flow_folder(None)
    with pytest.raises(ValueError, match=r"tapvid\.path=FILE"):
        tapvid(None)
    with pytest.raises((ValueError, FileNotFoundError), match=r"nowhere\.pkl"):
        tapvid(tmp_path / "nowhere.pkl")
    hidden = held_out()
    hidden.visible.zero_()
    with pytest.raises(ValueError, match="no point of dark has a visible target"):
        probe_set([hidden], "dark")
    with pytest.raises(ValueError, match="has no set"):
        FlowProbe({"easy": None})
    with pytest.raises(ValueError, match="add easy to probe_set"):
        FlowProbe({"easy": {"num_pairs": 4}})
    with pytest.raises(ValueError, match=r"probe set far: only 0 of"):
        FlowProbe({"far": partial(synthetic, SCENE, 2, 2, min_motion_px=100.0)})
    with pytest.raises(ValueError, match="every_n_steps=0"):
        probe(every_n_steps=0)


def test_weights_that_are_no_numbers_are_told_and_training_goes_on(tmp_path, caplog):
    class Poison(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            torch.nn.init.constant_(module.predictor.final_norm.weight, math.nan)

    watcher = probe(at_validation_end="never")
    trainer = plain_trainer(4, Poison(), watcher, default_root_dir=tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer.fit(predictor_module(), scenes(4))
    assert trainer.global_step == 4
    assert "have a KL that is no number" in caplog.text
    assert math.isfinite(watcher.history[0]["flow/held_out/epe"])
    assert math.isnan(watcher.history[-1]["flow/held_out/epe"])


def test_a_probe_that_fails_is_told_and_training_goes_on(tmp_path, caplog, monkeypatch):
    watcher = probe()
    monkeypatch.setattr(watcher, "cfg", None)
    monkeypatch.setattr(
        "tracing.engine.KLEngine.__call__",
        lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")),
    )
    trainer = plain_trainer(2, watcher, default_root_dir=tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer.fit(predictor_module(), scenes(2))
    assert trainer.global_step == 2
    assert "RuntimeError on rank 0: out of memory" in caplog.text
    assert watcher.history[-1] == {"step": 2}


def test_a_set_that_does_not_fit_the_model_stops_the_run_at_its_first_probe(tmp_path):
    scene = replace(SCENE, size=18)  # no whole patches
    watcher = FlowProbe({"odd": synthetic(scene, 2, 2)}, tracer=TRACER)
    trainer = plain_trainer(2, watcher, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="the probe set odd does not fit the model: ValueError"):
        trainer.fit(predictor_module(), scenes(2))


def test_a_rank_alone_traces_all_parts_and_reports_its_failure():
    def trace(part):
        if part == 2:
            raise ValueError("no")
        nothing = torch.zeros(0)
        return Answer(part, torch.zeros(0, 2), nothing, nothing.long())

    answers, problem = answers_of_all_ranks([0, 1], trace)
    assert [answer.part for answer in answers] == [0, 1] and problem == ""
    answers, problem = answers_of_all_ranks([0, 2], trace)
    assert answers == [] and problem == "ValueError on rank 0: no"


# --- real data ---------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_pairs_and_tapvid_pickles_become_sets(shared_root):
    real = flow_folder(shared_root / "data/flow_gt", points_per_pair=2, input_px=64)
    assert len(real.shown) == 10 and real.num_visible == 20
    assert {part.frame0.shape[-1] for part in real.shown} == {64}
    short = tapvid(shared_root / "data/tracks/tapvid_pairs_short.pkl", 4, 3, input_px=64)
    assert len(short.shown) == 4 and set(short.hw) == {(480, 854)}
    again = tapvid(shared_root / "data/tracks/tapvid_pairs_short.pkl", 4, 3, input_px=64)
    assert torch.equal(short.stored[3].points, again.stored[3].points)


# --- several ranks -----------------------------------------------------------------------------


def on_ranks(world: int, script: str, *words: object) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command = [sys.executable, *launcher, str(ROOT / script), *map(str, words)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_ranks_find_what_one_finds_to_the_bit(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        for weight in model.predictor.blocks.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.3)
    save(model.eval(), tmp_path / "export")
    found = []
    for world in (1, 2):
        on_ranks(world, "benchmarks/probe_on_ranks.py", tmp_path, tmp_path / f"{world}.json")
        found.append(json.loads((tmp_path / f"{world}.json").read_text()))
    one, two = found
    assert (one.pop("world"), two.pop("world")) == (1, 2)
    timed = {key for key in one["scores"] if key.endswith("/seconds")}
    for each in found:
        for key in timed:
            del each["scores"][key]
    assert one == two


@pytest.mark.slow
def test_ranks_that_shard_the_weights_or_fail_still_meet(tmp_path):
    on_ranks(2, "tests/sharded_probe.py", tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["sharded_equals_whole"] and first["was_sharded"]
    assert first["problem"] == "ValueError on rank 1: only here"
