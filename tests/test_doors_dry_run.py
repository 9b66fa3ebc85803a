"""dry_run=: the counts are those of the network, and nothing is left behind."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

import train as train_door
from doors.building import build_data
from doors.dry_run import spell
from doors.estimate import (
    Work,
    activation_bytes,
    count,
    num_processes,
    optimizer_bytes,
    plan_of,
    seconds_per_step,
)
from lras.config import PredictorConfig
from lras.optim import adamw, muon
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
    network(codes, codes, order, order[:, : WORK.kept(network.cfg)], grid)
    assert WORK.tokens(network.cfg) == tokens == seen[0]


@pytest.mark.parametrize("optimizer", [muon, adamw])
def test_the_optimizer_keeps_as_much_on_the_meta_device_as_in_truth(optimizer):
    network = FramePredictor(PredictorConfig.modern(**SIZES))
    true = optimizer(network)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    true.step()
    kept = [v for state in true.state.values() for v in state.values() if torch.is_tensor(v)]
    size = sum(value.nbytes for value in kept if value.numel() > 1)
    assert optimizer_bytes(optimizer(on_meta())) == pytest.approx(size, abs=64)  # scalars differ
    assert size >= 4 * count(network)


def test_activations_on_the_meta_device_are_what_autograd_keeps_in_truth():
    network, kept = FramePredictor(PredictorConfig.modern(**SIZES)), {}
    weights = {value.data_ptr() for value in network.state_dict().values()}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    order = torch.stack([torch.randperm(16) for _ in range(4)])
    codes = torch.zeros(4, 16, 1).long()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        nats = network(codes, codes, order, order[:, :8], WORK.grid(network.cfg))
    assert nats.requires_grad
    guess = activation_bytes(on_meta(), WORK, 4)
    # Not to the byte: what the attention keeps depends on its kernel.
    assert guess == pytest.approx(sum(kept.values()), rel=0.1)
    assert activation_bytes(on_meta(), WORK, 8) == pytest.approx(2 * guess, rel=0.3)


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
    assert not list(tmp_path.iterdir())
