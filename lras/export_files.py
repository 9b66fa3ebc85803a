"""The files of an export: config.json beside safetensors weights, in shards where they are large.

Shards and their index follow Hugging Face's convention (``model-00001-of-00003.safetensors``,
``model.safetensors.index.json``). Weights are read as views of the files and written from where
they lie, so neither holds a second copy in memory. Every file is written under a temporary name
and renamed; config.json comes last, so a folder without it is no export.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS, CONFIG = "model.safetensors", "config.json"
INDEX = WEIGHTS + ".index.json"
SHARD = "5GB"


def is_export(folder: Path) -> bool:
    """Whether the folder holds a config and weights."""
    weights = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    return (folder / CONFIG).is_file() and weights


def write_export(
    folder: str | Path,
    about: dict[str, Any],
    weights: Mapping[str, Tensor],
    max_shard: int | str = SHARD,
) -> Path:
    """Write an export, replacing an older one; ``max_shard`` in bytes or as ``5GB``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach() for name, value in weights.items()}
    plan = split_state_dict_into_shards_factory(
        weights,
        get_storage_size=lambda value: value.numel() * value.element_size(),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard,
    )
    for file, names in plan.filename_to_tensors.items():
        part = {name: weights[name].cpu().contiguous() for name in names}
        partial = folder / (file + ".partial")
        partial.touch()
        mode = partial.stat().st_mode  # as the user's other files; save_file would hide it
        save_file(part, partial, metadata={"format": "pt"})
        partial.chmod(mode)
        del part
    for file in plan.filename_to_tensors:
        _move_into_place(folder / (file + ".partial"))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(folder / INDEX, index)
    _remove_leftovers(folder, {*plan.filename_to_tensors, *([INDEX] if plan.is_sharded else [])})
    _write_json(folder / CONFIG, about)
    return folder


def read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of an export; the weights are views of its files.

    Raises:
        ValueError: a file is damaged, a shard is not there, or the config is of something else.
    """
    try:
        about = json.loads((folder / CONFIG).read_text())
        weights = _read_weights(folder)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, KeyError, OSError) as error:
        raise ValueError(
            f"the export at {folder} is damaged ({error}); write it again from the run's .ckpt."
        ) from error
    if not isinstance(about, dict) or not {"quantizer", "predictor"} & about.keys():
        raise ValueError(
            f"{folder / CONFIG} holds {sorted(about)}, expected quantizer, fingerprint and "
            f"predictor; pass a folder that train.py wrote."
        )
    return about, weights


def _read_weights(folder: Path) -> dict[str, Tensor]:
    files = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    weights = {}
    for file in files:
        with safe_open(folder / Path(file).name, framework="pt") as shard:
            weights |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    return weights


def _remove_leftovers(folder: Path, keep: set[str]) -> None:
    """Weights of an older export that was cut otherwise: they would be taken for this one's."""
    for pattern in (WEIGHTS, INDEX, "model-*-of-*.safetensors", "model*.safetensors.partial"):
        for path in folder.glob(pattern):
            if path.name not in keep:
                path.unlink()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    _move_into_place(partial)


def _move_into_place(partial: Path) -> None:
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(partial.with_suffix(""))
