"""Bad steps leave no trace, many in a row lead back, and nothing else is touched."""

import copy
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from lras import undo
from lras.averaging import WeightEMA
from lras.guard import StepGuard, _Unheard
from lras.optim import adamw, muon
from tests.short_fits import fit, module
from tests.tiny_model import states_equal

OPTIMIZERS = pytest.mark.parametrize(
    "optimizer", [adamw, muon, partial(torch.optim.SGD, lr=0.1, momentum=0.9)]
)


class Spoil(L.Callback):
    """Spoils the gradients of some steps (counted from 0)."""

    def __init__(self, *steps: int, by: float = float("nan")) -> None:
        self.steps, self.by = steps, by

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step in self.steps:
            for parameter in pl_module.predictor.parameters():
                parameter.grad *= self.by


class Skip(L.Callback):
    """The slow reference: the host leaves the update of some steps out."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        update = optimizer.step

        def step(closure) -> None:
            with torch.enable_grad():
                result = closure()
            if trainer.global_step not in self.steps:
                update()
            return result

        step._wrapped_by_lr_sched = True
        optimizer.step = step


class Watch(L.Callback):
    """Keeps a copy of weights and optimizer state after every step."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_) -> None:
        (optimizer,) = trainer.optimizers
        states = [dict(optimizer.state[p]) for p in pl_module.predictor.parameters()]
        self.seen.append(copy.deepcopy((pl_module.predictor.state_dict(), states)))


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def made(optimizer):
    if getattr(optimizer, "func", None) is torch.optim.SGD:
        return module(lambda model: optimizer(model.parameters()))
    return module(optimizer)


def guard(folder: Path, **options) -> StepGuard:
    return StepGuard(folder / "last.ckpt", **options)


@OPTIMIZERS
def test_where_nothing_happens_nothing_changes(optimizer, tmp_path):
    watches = Watch(), Watch()
    alone = fit(tmp_path / "a", 6, watches[0], own=made(optimizer))
    guarded = fit(tmp_path / "b", 6, guard(tmp_path), watches[1], own=made(optimizer))
    assert states_equal(alone, guarded) and same(watches[0].seen, watches[1].seen)


@OPTIMIZERS
@pytest.mark.parametrize("steps", [(0, 2, 3)])
def test_a_bad_step_is_the_same_as_one_that_was_left_out(optimizer, steps, tmp_path):
    own = guard(tmp_path)
    guarded = fit(tmp_path / "a", 6, own, Spoil(*steps), own=made(optimizer))
    expected = fit(tmp_path / "b", 6, Skip(*steps), own=made(optimizer))
    assert states_equal(guarded, expected)
    own.state_dict()
    assert own.skipped == len(steps) and own.rollbacks == 0


def test_a_bad_step_moves_neither_weights_nor_optimizer_state(tmp_path):
    watch = Watch()
    fit(tmp_path, 6, guard(tmp_path), Spoil(3, by=float("inf")), watch, own=module(muon))
    before, after, later = watch.seen[2:5]
    assert same(before[0], after[0]) and not same(after[0], later[0])
    for one, other in zip(before[1], after[1], strict=True):
        counters = {"step"} & one.keys()  # on the CPU: put back before the next step
        assert all(same(one[name], other[name]) for name in one.keys() - counters)


@OPTIMIZERS
def test_parameters_a_few_at_a_time_are_updated_as_all_at_once(optimizer, tmp_path, monkeypatch):
    expected = fit(tmp_path / "a", 6, guard(tmp_path), Spoil(2), own=made(optimizer))
    monkeypatch.setattr(undo.parts_of, "__defaults__", (1000,))
    parted = fit(tmp_path / "b", 6, guard(tmp_path), Spoil(2), own=made(optimizer))
    assert states_equal(parted, expected)


@pytest.mark.parametrize("bad", [True, False])
def test_counters_that_live_elsewhere_are_put_back_by_the_host(bad):
    state = {"step": torch.tensor(4.0), "count": 4}
    before = [(state, "step", torch.tensor(3.0)), (state, "count", 3)]
    assert _Unheard(torch.tensor(bad), before).was_bad() == bad
    assert state == ({"step": 3.0, "count": 3} if bad else {"step": 4.0, "count": 4})


def test_a_finite_spike_is_bad_once_there_is_something_to_compare_it_with(tmp_path):
    for at, skipped in ((2, 0), (6, 1)):
        own = guard(tmp_path, memory_steps=4, norm_factor=3.0)
        fit(tmp_path / str(at), 8, own, Spoil(at, by=1e4))
        own.state_dict()
        assert own.skipped == skipped


def test_after_many_bad_steps_the_weights_go_back_and_training_goes_on(tmp_path, caplog):
    own, watch = guard(tmp_path, max_skips=3), Watch()
    ema = WeightEMA(decay=0.5)
    fit(tmp_path, 14, ema, own, Spoil(5, 6, 7), watch, every=4)
    assert own.rollbacks == 1 and own.skipped == 3
    # Checkpoints stand at 4 and 8; three bad steps up to 8 are heard of within step 9.
    assert "back to the weights of" in caplog.text and caplog.text.count("3 steps in a row") == 1
    kept = torch.load(tmp_path / "step_0000012.ckpt", weights_only=True)
    assert kept["global_step"] == 12
    assert not same(watch.seen[8], watch.seen[9])  # training goes on


def test_going_back_restores_weights_average_and_optimizer_but_not_the_schedule(tmp_path):
    class Look(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 9:
                self.weights = copy.deepcopy(pl_module.state_dict())
                self.optimizer = copy.deepcopy(trainer.optimizers[0].state_dict())
                self.average = copy.deepcopy(ema._average_model.module.state_dict())
                self.rates = trainer.lr_scheduler_configs[0].scheduler.get_last_lr()

    look, ema = Look(), WeightEMA(decay=0.5)
    bad = Spoil(6, 7)
    fit(tmp_path, 10, ema, guard(tmp_path, max_skips=2), bad, look, every=4)
    kept = torch.load(tmp_path / "step_0000008.ckpt", weights_only=True)
    assert same(kept["current_model_state"], look.weights)
    assert same(kept["state_dict"], look.average)
    assert same(kept["optimizer_states"][0]["state"], look.optimizer["state"])
    assert [group["lr"] for group in look.optimizer["param_groups"]] == look.rates


def test_when_going_back_does_not_help_a_sentence_ends_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"2 steps in a row .* went back 1 times\); lower"):
        fit(tmp_path, 30, guard(tmp_path, max_skips=2, max_rollbacks=1), Spoil(*range(3, 30)))
    with pytest.raises(ValueError, match="the run has none"):
        fit(tmp_path / "b", 9, guard(tmp_path / "b", max_skips=2), Spoil(*range(9)), every=100)


def test_a_guarded_run_with_bad_steps_resumes_to_the_very_same_weights(tmp_path):
    spoil = Spoil(3, 5, 9)
    options = {"memory_steps": 2, "max_skips": 3}
    own = guard(tmp_path, **options)
    whole = fit(tmp_path / "whole", 12, own, spoil, own=module(muon), keep_last=9)
    for at in (4, 6):  # right after a bad step, and with one on the way to the host
        last = tmp_path / "whole" / f"step_{at:07d}.ckpt"
        own = guard(tmp_path, **options)
        resumed = fit(tmp_path / f"from{at}", 12, own, spoil, own=module(muon), resume=last)
        assert states_equal(resumed, whole)
