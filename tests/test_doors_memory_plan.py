"""The plan of a step's memory against what training takes of the allocator, and what fits by it."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.memory_truth import allocated_peak, true_peak
from benchmarks.shipped import configured, noise_batch
from doors.batch_size import Group, planned_bytes
from doors.estimate import Work, count
from doors.memory_plan import device_bytes, largest_batch, memory_plan, optimizer_bytes
from lras.config import PredictorConfig
from lras.optim import adamw, muon
from lras.predictor import FramePredictor
from tests.test_doors_dry_run import SIZES, composed, on_meta

NANO = Work(steps=1, batch=4, size=32, share=0.5, stage=None)
MID = ("model.predictor.cfg.dim=256", "model.predictor.cfg.num_layers=6", "optimizer=adamw")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("+loss.chunk_elements=20000",),
        ("schedule.recompute=selective",),
        ("schedule.recompute=block", "trainer.precision=32-true", "sequence.tokens=60"),
        ("schedule.recompute=block", "+trainer.accumulate_grad_batches=2"),
        ("schedule.recompute=block", "callbacks=[ema,default]"),
        MID,
    ],
)
def test_the_plan_is_within_a_tenth_of_what_two_steps_of_a_training_take(words, tmp_path):
    cfg = configured(tmp_path, "experiment=lras_nano", *words, "callbacks.probe=null")
    group = Group.of(cfg)
    work = replace(NANO, batch=4 * group.parts, limit=cfg.sequence.tokens)
    true = true_peak(cfg, noise_batch(4, NANO.size, NANO.share), tmp_path)
    assert planned_bytes(cfg, work, 4, group) == pytest.approx(true, rel=0.1)


def test_the_parts_of_a_plan_add_up():
    cfg = composed("experiment=lras_nano")
    plan = memory_plan(cfg, NANO, 4)
    assert plan.weights + plan.gradients + plan.optimizer + plan.activations == plan.peak
    assert plan.gradients == 4 * count(on_meta_of(cfg))


def test_averaged_weights_are_seen_in_the_truth_and_what_is_held_at_a_time_counts(tmp_path):
    peaks = []
    for name, more in (("plain", "default"), ("averaged", "ema,default")):
        (tmp_path / name).mkdir()
        cfg = configured(tmp_path / name, "experiment=smoke", f"callbacks=[{more}]")
        peaks.append(true_peak(cfg, noise_batch(2, 16, 1.0), tmp_path / name))
    assert peaks[1] >= peaks[0] + 4 * count(on_meta_of(cfg))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        torch.empty(3000, dtype=torch.uint8)
        kept = [torch.empty(1000, dtype=torch.uint8) for _ in range(2)]
    assert allocated_peak(seen) == 3000 and len(kept) == 2


def on_meta_of(cfg) -> FramePredictor:
    from hydra.utils import instantiate

    with torch.device("meta"):
        return instantiate(cfg.model.predictor, _convert_="object")


def test_recomputing_more_takes_less_and_longer_sequences_take_more():
    cfg = composed("experiment=lras_nano")
    peaks = []
    for mode in ("none", "selective", "block"):
        cfg.schedule.recompute = mode
        peaks.append(memory_plan(cfg, NANO, 4).activations)
    assert peaks[0] > peaks[1] > peaks[2]
    assert memory_plan(cfg, NANO, 8).activations > 1.8 * peaks[2]


def test_gradients_of_accumulated_batches_live_through_the_backward_pass():
    words = ("experiment=lras_nano", "model.predictor.cfg.dim=512", "loss.impl=naive")
    cfg = composed(*words, "+trainer.accumulate_grad_batches=1")
    small = Work(**(vars(NANO) | {"size": 8}))  # so that gradients count for more than activations
    one = memory_plan(cfg, small, 1)
    cfg.trainer.accumulate_grad_batches = 2
    two = memory_plan(cfg, small, 1)
    assert two.peak > one.peak and two.gradients == one.gradients


def test_logits_are_planned_in_chunks_unless_they_are_held_whole():
    cfg = composed("experiment=lras_nano", "+loss.chunk_elements=10000")
    rows = 4 * 32
    assert memory_plan(cfg, NANO, 4).logits == 4 * 10_000
    cfg.loss.impl = "naive"
    assert memory_plan(cfg, NANO, 4).logits == 4 * rows * 512


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


@pytest.mark.parametrize("budget, fits", [(99, 0), (110, 1), (119, 1), (120, 2), (1099, 99)])
def test_the_largest_batch_is_the_last_whose_plan_fits(budget, fits):
    asked = []

    def peak(pairs: int) -> int:
        asked.append(pairs)
        return 100 + 10 * pairs + (pairs > 50) * 5 - 10 * (pairs == 1)

    assert largest_batch(peak, budget) == fits
    assert len(asked) < 8


def test_the_largest_batch_is_found_where_the_plan_bends():
    assert largest_batch(lambda pairs: 10 + pairs**2, 10 + 77**2) == 77
    assert largest_batch(lambda pairs: min(pairs, 5), 5, most=300) == 300


def test_the_memory_of_this_machine_is_known_and_that_of_an_absent_gpu_is_not():
    assert device_bytes("cpu") > 2**20
    if not torch.cuda.is_available():
        assert device_bytes("gpu") is None
