"""record.json says by what a run was made, and the random state goes on where it stopped."""

import json
import random

import fsspec
import lightning as L
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from doors.random_state import RandomState
from doors.run_record import RECORD, data_hash, write_record
from tests.short_fits import fit
from tracing.benchmarks.provenance import provenance


def config(**data):
    known = {"root": None, "batch_size": 4, "streams": None, "min_gap": 1}
    return OmegaConf.create({"seed": 3, "data": known | data})


def test_every_part_of_a_run_is_recorded(tmp_path):
    for step in (0, 6):
        write_record(config(), tmp_path, provenance(3), step)
    first, second = json.loads((tmp_path / RECORD).read_text())
    assert (first["from_step"], second["from_step"]) == (0, 6)
    assert {"git_sha", "command", "seed", "date", "machine"} <= first.keys()
    assert first["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert first["data_sha256"] == second["data_sha256"]
    assert len(first["config_sha256"]) == 64 and first["seed"] == 3


def test_the_hash_of_data_is_that_of_what_is_seen_not_of_where_it_lies(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        (folder / "train").mkdir(parents=True)
        (folder / "train" / "index.json").write_text('{"sha256": "1"}')
    one, other = (data_hash(config(root=str(folder))) for folder in folders)
    assert one == other == data_hash(config(root=str(folders[0]), batch_size=9, streams=2))
    assert one != data_hash(config(root=str(folders[0]), min_gap=2))
    (folders[1] / "train" / "index.json").write_text('{"sha256": "2"}')
    assert one != data_hash(config(root=str(folders[1])))
    mixed = data_hash(config(root=[str(folder) for folder in folders]))
    assert mixed not in (one, data_hash(config(root=[str(folders[0])] * 2)))
    memory = fsspec.filesystem("memory")
    hashes = []
    for content in ("1", "1", "2"):
        memory.pipe("/clips/train/index.json", content.encode())
        hashes.append(data_hash(config(root="memory://clips")))
    assert hashes[0] == hashes[1] != hashes[2]


class Draw(L.Callback):
    """Draws from every global generator after each step."""

    def __init__(self) -> None:
        self.drawn = []

    def on_train_batch_end(self, *_) -> None:
        old = np.random.rand()  # noqa: NPY002
        self.drawn.append((random.random(), old, torch.rand(1).item()))


@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_run_draws_what_an_undisturbed_one_would_have(kept, tmp_path):
    drawn = []
    for steps, resume in ((6, None), (6, tmp_path / "0" / "step_0000004.ckpt")):
        L.seed_everything(7, verbose=False)
        draw = Draw()
        callbacks = [RandomState()] if kept else []
        fit(tmp_path / str(len(drawn)), steps, draw, *callbacks, resume=resume)
        drawn.append(draw.drawn)
    whole, resumed = drawn
    assert (resumed == whole[4:]) == kept
