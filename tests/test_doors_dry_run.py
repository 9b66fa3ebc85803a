"""dry_run=: the counts are those of the network, and nothing is left behind."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

import doors.dry_run as door
import train as train_door
from doors.batch_size import Group
from doors.building import build_data
from doors.dry_run import fitting_batch, memory_line, memory_table, spell
from doors.estimate import (
    Work,
    count,
    num_processes,
    plan_of,
    seconds_per_step,
)
from doors.memory_plan import MemoryPlan
from lras.config import PredictorConfig
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SIZES = {"image_size": 16, "num_codes": 32, "num_layers": 2, "dim": 32, "num_heads": 2}
WORK = Work(steps=3, batch=4, size=16, share=0.5, stage=None)


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose("train", list(words))


def on_meta(flavor: str = "modern") -> FramePredictor:
    with torch.device("meta"):
        return FramePredictor(getattr(PredictorConfig, flavor)(**SIZES))


@pytest.mark.parametrize("flavor, tokens", [("modern", 16 + 8 * 2), ("official", 32 + 8 * 2)])
def test_tokens_are_those_of_the_sequence_the_network_sees(flavor, tokens):
    network, seen = FramePredictor(getattr(PredictorConfig, flavor)(**SIZES)), []
    network.blocks[0].register_forward_hook(lambda own, given, out: seen.append(given[0].shape[1]))
    grid, order = WORK.grid(network.cfg), torch.arange(16)[None]
    codes = torch.zeros(1, 16, 1).long()
    placed, kept = WORK.patches(network.cfg)
    network(codes, codes, order[:, :placed], order[:, :kept], grid)
    assert WORK.tokens(network.cfg) == tokens == seen[0]


@pytest.mark.parametrize("flavor", ["modern", "official"])
def test_a_limit_shortens_sequences_and_accumulated_batches_are_counted(flavor):
    network = on_meta(flavor)
    assert replace(WORK, limit=20).tokens(network.cfg) in (18, 19, 20)
    data = SimpleNamespace(batch_size=3)
    (work,) = plan_of(data, 5, network.cfg, world=2, parts=4, limit=20)
    assert (work.batch, work.limit) == (24, 20)


def test_the_plan_stops_where_the_training_does():
    data, _ = build_data(composed("experiment=smoke"))
    plan = plan_of(data, 8, PredictorConfig.modern(**SIZES), world=2)
    assert [(work.steps, work.batch, work.size) for work in plan] == [(6, 8, 12), (2, 8, 16)]
    assert len(plan_of(data, 6, PredictorConfig.modern(**SIZES), world=1)) == 1


@pytest.mark.parametrize(
    "words, processes",
    [
        ((), 1),
        (("trainer=ddp_cpu", "trainer.devices=3"), 3),
        (("trainer=ddp", "trainer.devices=[0,2]", "trainer.num_nodes=2"), 4),
        (("trainer=ddp", "trainer.devices='4'"), 4),
    ],
)
def test_the_processes_are_counted_without_starting_any(words, processes):
    assert num_processes(composed("experiment=smoke", *words)) == processes


def test_what_is_too_large_or_has_no_gpu_is_not_timed():
    cfg = composed("experiment=smoke")
    large = Work(steps=1, batch=200_000, size=16, share=1.0, stage=None)
    assert seconds_per_step(cfg, large, on_meta(), 1, "cpu") == "too large to try"
    if not torch.cuda.is_available():
        assert seconds_per_step(cfg, WORK, on_meta(), 1, "cuda") == "no GPU here"


@pytest.mark.parametrize(
    "seconds, words", [(75, "1 min 15 s"), (7500, "2 h 5 min"), (0.2, "0 min 0 s")]
)
def test_times_are_spelled(seconds, words):
    assert spell(seconds) == words


PLAN = MemoryPlan(
    weights=10**9, gradients=2 * 10**9, optimizer=4 * 10**9, activations=8 * 10**9, logits=0, peak=0
)


@pytest.mark.parametrize(
    "words, rows",
    [
        ((), {"all": "15.000"}),
        (("trainer=ddp_cpu",), {"buckets in which DDP averages gradients": "2.000", "all": "17."}),
        (("callbacks=[ema,default]",), {"averaged weights": "1.000", "all": "16.000"}),
    ],
)
def test_the_table_of_memory_holds_what_the_strategy_and_averaged_weights_add(words, rows):
    console = Console(width=120, record=True)
    console.print(memory_table(composed("experiment=smoke", *words), PLAN, "Memory"))
    lines = [line for line in console.export_text().splitlines() if "│" in line]
    said = {line.split("│")[1].strip(): line for line in lines}
    assert all(size in said[name] for name, size in rows.items())
    assert len(said) == 5 + len(rows)


def test_the_largest_batch_is_that_of_the_whole_plan(monkeypatch):
    asked = []

    def planned(cfg, work, pairs, group) -> int:
        asked.append(group)
        return 10 * pairs

    monkeypatch.setattr(door, "planned_bytes", planned)
    monkeypatch.setattr(door, "device_bytes", lambda accelerator: 1000)
    cfg = composed("experiment=smoke", "trainer=ddp_cpu", "+trainer.accumulate_grad_batches=2")
    assert fitting_batch(cfg, WORK).endswith(": 90 pairs.")
    assert set(asked) == {Group(2, 2)}


def test_the_line_of_memory_tells_the_plan_of_the_fullest_stage_and_draws_nothing(monkeypatch):
    cfg, seen = composed("experiment=smoke", "+trainer.accumulate_grad_batches=2"), []
    data, steps = build_data(cfg)
    monkeypatch.setattr(door, "bytes_for_one", lambda cfg, group: 2 * 10**9)
    whole = door.planned_bytes

    def planned(cfg, work, pairs, group) -> int:
        seen.append((work.size, pairs, whole(cfg, work, pairs, group)))
        return 10**9

    monkeypatch.setattr(door, "planned_bytes", planned)
    before = torch.get_rng_state()
    said = memory_line(cfg, data, steps)
    assert torch.equal(torch.get_rng_state(), before)
    assert "planned to take 1 GB at most, of 2 GB there is" in said
    ((size, pairs, taken),) = seen
    assert (size, pairs) == (16, 4) and taken > 0
    if not torch.cuda.is_available():
        assert memory_line(composed("experiment=smoke", "trainer=gpu"), data, steps) is None


def test_a_dry_run_prints_the_plan_trains_nothing_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LRAS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(PredictorModule, "training_step", None)
    argv = ["train", "--config-path", str(CONFIGS), "experiment=smoke", "dry_run=true"]
    monkeypatch.setattr(sys, "argv", argv)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])  # hydra sets its own
    train_door.main()
    said, cfg = capsys.readouterr().out, composed("experiment=smoke")
    predictor = instantiate(cfg.model.predictor, _convert_="object")
    quantizer: Quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    assert f"{count(predictor):,}" in said and f"{count(quantizer):,}" in said
    tokens = 6 * 8 * (9 + 9 * 2) + 6 * 8 * (16 + 16 * 2)
    assert f"{tokens:,}" in said and "not measured" in said and "0 min" in said
    assert "experiment_name: smoke" in said and "max_motion_px: 4.0" in said
    assert "recompute=none" in said and "Largest batch" in said and "pairs." in said
    assert not list(tmp_path.iterdir())
