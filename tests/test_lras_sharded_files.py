"""Distributed checkpoints, read whole by one process, without running what they hold."""

import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lras.sharded_files import INDEX, META, is_sharded, numbered, read_sharded


class Evil:
    def __reduce__(self):
        return os.system, ("touch broken-into",)


@pytest.fixture
def folder(tmp_path) -> Path:
    state = {
        "state_dict": {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor(True)},
        "optimizer_0": {
            "state": {"b.c": {"step": torch.tensor(3.0), "use": False}},
            "param_groups": [{"lr": 0.1, "params": ["b.c", "a"]}],
        },
    }
    dcp.save(state, checkpoint_id=tmp_path / "step.ckpt", no_dist=True)
    torch.save({"global_step": 3}, tmp_path / "step.ckpt" / META)
    return tmp_path / "step.ckpt"


def test_it_is_read_as_a_checkpoint_of_one_process(folder):
    state = read_sharded(folder)
    assert is_sharded(folder) and state["global_step"] == 3
    assert torch.equal(state["state_dict"]["a"], torch.arange(6.0).view(2, 3))
    assert state["state_dict"].keys() == {"a", "b.c"}
    (optimizer,) = state["optimizer_states"]
    assert optimizer["param_groups"] == [{"lr": 0.1, "params": [0, 1]}]
    assert optimizer["state"] == {0: {"step": torch.tensor(3.0), "use": False}}


def test_weights_are_read_alone_where_nobody_trains(folder):
    assert read_sharded(folder, optimizers=False).keys() == {"global_step", "state_dict"}
    some = read_sharded(folder, optimizers=False, weights="b.")
    assert some["state_dict"] == {"b.c": torch.tensor(True)}


def test_places_of_parameters_are_counted_over_all_groups():
    groups = [{"params": ["a"]}, {"params": ["c", "b"], "lr": 1}]
    found = numbered({"state": {"b": 1, "a": 2}, "param_groups": groups})
    assert found["state"] == {2: 1, 0: 2}
    assert [group["params"] for group in found["param_groups"]] == [[0], [1, 2]]


@pytest.mark.parametrize("place", [INDEX, META, "value"])
def test_no_code_from_a_file_is_run(place, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if place == "value":
        evil = {"state_dict": {"a": Evil()}}
        dcp.save(evil, checkpoint_id=folder, no_dist=True)
    else:
        (folder / place).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="cannot be read"):
        read_sharded(folder)
    assert not (tmp_path / "broken-into").exists()


def test_a_damaged_one_is_refused_with_a_sentence(folder):
    (data,) = folder.glob("*.distcp")
    data.write_bytes(data.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"cannot be read .* go on from an earlier one"):
        read_sharded(folder)
