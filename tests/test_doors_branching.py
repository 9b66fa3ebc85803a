"""A decay branched off a stable run: starts there, falls to zero, refuses what is no such run."""

import pytest
import torch
from omegaconf import OmegaConf

from doors.branching import branch_of, kept_branch
from lras.optim import Schedule
from tests.distributed_runs import train

SMOKE = ("experiment=smoke", "~callbacks.probe", "~callbacks.progress", "~callbacks.pictures")


def config(**schedule):
    plain = {"schedule": {"decay_from": None, "decay_steps": None} | schedule}
    return OmegaConf.create(plain | {"init_from": None, "trainer": {"max_steps": 99}})


def checkpoint(path, step=40, rates=(0.02, 0.001)):
    schedulers = [{"_last_lr": list(rates), "base_lrs": [0.02, 0.001]}]
    torch.save({"global_step": step, "lr_schedulers": schedulers}, path)
    return str(path)


def test_a_branch_begins_where_the_checkpoint_stands(tmp_path):
    path = checkpoint(tmp_path / "some.ckpt")
    branch = branch_of(config(decay_from=path, decay_steps=10), natural=50)
    assert (branch.start, branch.end) == (40, 50)
    assert branch_of(config(), natural=50) is None


def test_a_branch_that_goes_on_keeps_its_start_wherever_the_trunk_has_got_to(tmp_path):
    folder = tmp_path / "trunk" / "checkpoints"
    folder.mkdir(parents=True)
    steps = [checkpoint(folder / f"step_{step}.ckpt", step) for step in (40, 80)]
    last = folder / "last.ckpt"
    last.symlink_to("step_40.ckpt")
    begun = branch_of(config(decay_from=str(tmp_path / "trunk"), decay_steps=10), None)
    assert str(begun.checkpoint) == steps[0]
    assert kept_branch(tmp_path) is None
    begun.keep(tmp_path)
    last.unlink()
    last.symlink_to("step_80.ckpt")
    assert kept_branch(tmp_path) == begun and (begun.start, begun.end) == (40, 50)


@pytest.mark.parametrize(
    "changes, natural, words",
    [
        ({"decay_steps": 10}, None, "needs both"),
        ({"decay_from": "RUN"}, None, "needs both"),
        ({"decay_from": "RUN", "decay_steps": 11}, 50, "past the curriculum's 50"),
    ],
)
def test_what_is_no_branch_is_refused(changes, natural, words, tmp_path):
    path = checkpoint(tmp_path / "some.ckpt")
    changes = {k: path if v == "RUN" else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=words):
        branch_of(config(**changes), natural)


def test_a_run_whose_rate_has_fallen_is_no_trunk_and_neither_is_an_absent_one(tmp_path):
    path = checkpoint(tmp_path / "some.ckpt", rates=(0.01, 0.0005))
    with pytest.raises(ValueError, match="stable part"):
        branch_of(config(decay_from=path, decay_steps=5), None)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        branch_of(config(decay_from=str(tmp_path / "none"), decay_steps=5), None)


def test_the_rate_of_a_branch_falls_from_its_start_to_zero():
    branch = Schedule(warmup_steps=3, decay_share=0.0, decay_start=40)
    assert [branch.factor(step, 50) for step in (2, 39, 40, 45, 50)] == [1.0, 1.0, 1.0, 0.5, 0.0]
    stable = Schedule(warmup_steps=3, decay_share=0.0)
    assert stable.factor(50, 50) == 1.0  # what a checkpoint at the very end holds
    cosine = Schedule(warmup_steps=2, shape="cosine")
    assert [round(cosine.factor(s, 10), 3) for s in (0, 2, 6, 10)] == [0.5, 1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="no stable part"):
        Schedule(shape="cosine", decay_start=3)


@pytest.mark.slow
def test_two_decays_of_one_stable_run_through_the_door(tmp_path):
    words = (*SMOKE, "schedule.decay_share=0", "schedule.warmup_steps=2")
    done = train(tmp_path / "trunk", *words, "trainer.max_steps=6")
    assert done.returncode == 0, done.stderr
    for steps in (2, 4):
        asked = (f"schedule.decay_from={tmp_path / 'trunk'}", f"schedule.decay_steps={steps}")
        out = tmp_path / f"branch{steps}"
        done = train(out, *words, *asked)
        assert done.returncode == 0, done.stderr
        state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
        assert state["global_step"] == 6 + steps
        assert state["lr_schedulers"][0]["_last_lr"] == [0.0, 0.0]
