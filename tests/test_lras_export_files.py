"""The files of an export: shards, what replaces what, what is left when writing fails."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lras import export_files
from lras.checkpoint import load_predictor, save
from lras.export_files import INDEX, is_export, write_export
from lras.official.convert import convert
from tests.official_files import PREDICTOR, QUANTIZER, predictor_weights, write_file
from tests.tiny_model import states_equal, tiny_model


@pytest.fixture
def files(tmp_path):
    """A published predictor and its quantizer."""
    predictor = write_file(tmp_path / "p.pt", PREDICTOR, key="model", iteration=3)
    return predictor, write_file(tmp_path / "q.pt", QUANTIZER)


def test_shards_follow_hugging_faces_index_and_load_alike(tmp_path, files):
    whole = convert(files[0], tmp_path / "whole")
    shards = convert(files[0], tmp_path / "shards", max_shard=8000)
    index = json.loads((shards / INDEX).read_text())
    names = sorted(path.name for path in shards.glob("*.safetensors"))
    count = len(names)
    assert count > 2
    assert names == [f"model-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)]
    for file in names:
        assert {k for k, v in index["weight_map"].items() if v == file} == set(
            load_file(shards / file)
        )
    assert index["metadata"]["total_size"] == sum(
        v.nbytes for v in load_file(whole / "model.safetensors").values()
    )
    assert states_equal(load_predictor(whole), load_predictor(shards))


def test_an_export_over_an_older_one_leaves_nothing_of_it(tmp_path, files):
    out = tmp_path / "ours"
    once = {path.name for path in convert(files[0], out).iterdir()}
    convert(files[0], out, max_shard=8000)
    assert not once & {path.name for path in out.glob("*.safetensors")}
    assert {path.name for path in convert(files[0], out).iterdir()} == once
    assert states_equal(load_predictor(out), load_predictor(files[0]))


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_an_export_cut_off_while_it_replaces_another_is_none(tmp_path, files, monkeypatch, moved):
    """Never weights of one under the config or index of the other."""
    out = convert(files[0], tmp_path / "ours", max_shard=8000)
    other = {name: value + 1 for name, value in predictor_weights(PREDICTOR).items()}
    path, left, replace = write_file(tmp_path / "o.pt", PREDICTOR, other), [moved], Path.replace

    def dying(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("the power went")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(OSError, match="the power went"):
        convert(path, out, max_shard=8000)
    monkeypatch.undo()
    assert not is_export(out)
    assert states_equal(load_predictor(convert(path, out)), load_predictor(path))


@pytest.mark.parametrize("error", [SafetensorError("no space left."), OSError("no space left.")])
def test_an_export_that_cannot_be_written_leaves_the_older_one(tmp_path, files, monkeypatch, error):
    out = convert(files[0], tmp_path / "ours", max_shard=8000)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    left, save_file = [3], export_files.save_file

    def full(*given, **named) -> None:
        left[0] -= 1
        if not left[0]:
            raise error
        save_file(*given, **named)

    monkeypatch.setattr(export_files, "save_file", full)
    with pytest.raises((ValueError, OSError), match="no space left"):
        convert(files[0], out, max_shard=9000)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_note_of_more_than_plain_data_is_refused_before_anything_is_written(tmp_path):
    model, out = tiny_model(), tmp_path / "out"
    with pytest.raises(ValueError, match="no plain data"):
        save(model, out, note={"dtype": torch.float32})
    assert not out.exists()


def test_folders_of_other_models_and_files_are_left_alone(tmp_path, files):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"model.safetensors of another model"):
        convert(files[0], other)
    (other / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"config.json of another model"):
        convert(files[0], other)
    assert (other / "model.safetensors").read_bytes() == b"precious"
    for out in (files[1], files[1] / "in" / "it"):
        with pytest.raises(ValueError, match=r"q.pt is a file"):
            convert(files[0], out)
        with pytest.raises(ValueError, match=r"q.pt is a file"):
            save(tiny_model(), out)


def test_a_tied_head_is_written_out_and_other_shared_memory_is_refused(tmp_path):
    weights = predictor_weights(PREDICTOR)
    weights["lm_head.weight"] = weights["transformer.token_embedding.weight"]
    path = write_file(tmp_path / "tied.pt", PREDICTOR, weights)
    assert states_equal(load_predictor(convert(path, tmp_path / "out")), load_predictor(path))
    numbers = torch.zeros(100)
    with pytest.raises(ValueError, match="cannot be written"):
        write_export(tmp_path / "no", {"predictor": {}}, {"a": numbers[:60], "b": numbers[40:]})
    assert not list((tmp_path / "no").iterdir())


def test_a_shard_that_is_not_there_or_cut_off_is_one_sentence(tmp_path, files):
    out = convert(files[0], tmp_path / "ours", max_shard=8000)
    shard = out / next(iter(sorted(path.name for path in out.glob("*.safetensors"))))
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        load_predictor(out)
    shard.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        load_predictor(out)
