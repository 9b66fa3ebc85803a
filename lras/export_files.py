"""The files of an export: config.json beside safetensors weights, in shards where they are large.

Shards and their index follow Hugging Face's convention (``model-00001-of-00003.safetensors``,
``model.safetensors.index.json``). Weights are read as views of the files and written from where
they lie, so neither holds a second copy in memory. Every file is written under a temporary name.
Once all are on disk, an older config.json goes first and the new one comes last, so a folder
without it is no export.
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
PARTIAL = ".partial"


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
    """Write an export, replacing an older one; ``max_shard`` in bytes or as ``5GB``.

    What fails before all is written leaves an older export as it was; what fails afterwards leaves
    no export, never parts of both.

    Raises:
        ValueError: ``folder`` is a file or somebody else's, ``about`` is no plain data, ``weights``
            overlap in memory, or the disk is full.
    """
    folder = Path(folder)
    weights = {name: value.detach() for name, value in weights.items()}
    plan = split_state_dict_into_shards_factory(
        weights,
        get_storage_size=lambda value: value.numel() * value.element_size(),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard,
    )
    texts = {CONFIG: _json(folder, about)}
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        texts = {INDEX: _json(folder, index)} | texts
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [*plan.filename_to_tensors, *texts]
    try:
        for file, text in texts.items():
            _partial(folder, file).write_text(text)
        for file, names in plan.filename_to_tensors.items():
            _write_weights(_partial(folder, file), {name: weights[name] for name in names})
        for file in files:
            _to_disk(_partial(folder, file))
    except BaseException as error:
        for file in files:
            _partial(folder, file).unlink(missing_ok=True)
        if not isinstance(error, RuntimeError | SafetensorError):
            raise
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(
            f"the weights cannot be written to {folder} ({reason}); nothing there was changed."
        ) from error
    for old in (CONFIG, INDEX):  # from here on an older export is none
        (folder / old).unlink(missing_ok=True)
    _remove_leftovers(folder, {name for file in files for name in (file, file + PARTIAL)})
    for file in files:
        _partial(folder, file).replace(folder / file)
    return folder


def check_folder(folder: Path) -> None:
    """Whether an export may be written to ``folder``: a new or empty one, or an older export.

    Raises:
        ValueError: it is a file or inside one, or holds a config or weights of something else.
    """
    for place in (folder, *folder.absolute().parents):
        if place.is_file():
            raise ValueError(f"{place} is a file, so {folder} is no folder; name another folder.")
    configs = [path for path in (folder / CONFIG, _partial(folder, CONFIG)) if path.is_file()]
    foreign = [path for path in configs if not _is_ours(path)]
    if not configs:  # the config of an export that was cut off while it was written is partial
        foreign = sorted(folder.glob("*.safetensors"))
    if foreign:
        raise ValueError(
            f"{folder} holds {foreign[0].name} of another model than ours; name an empty folder."
        )


def _is_ours(config: Path) -> bool:
    try:
        about = json.loads(config.read_text())
    except (ValueError, RecursionError):
        return config.suffix == PARTIAL  # cut off
    return isinstance(about, dict) and bool({"quantizer", "predictor"} & about.keys())


def _write_weights(partial: Path, weights: dict[str, Tensor]) -> None:
    partial.touch()
    mode = partial.stat().st_mode  # as the user's other files; save_file would hide it
    seen: set[int] = set()
    part = {}
    for name, value in weights.items():
        value = value.cpu().contiguous()
        tied = value.numel() and value.data_ptr() in seen  # a tied head is written out
        part[name] = value.clone() if tied else value
        seen.add(value.data_ptr())
    save_file(part, partial, metadata={"format": "pt"})
    partial.chmod(mode)


def read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of an export; the weights are views of its files.

    Raises:
        ValueError: a file is damaged, a shard is not there, or the config is of something else.
    """
    try:
        about = json.loads((folder / CONFIG).read_text())
        weights = _read_weights(folder)
    except (ValueError, RecursionError, SafetensorError, LookupError, TypeError, OSError) as error:
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
    for pattern in (WEIGHTS, INDEX, "model-*-of-*.safetensors", "model*.safetensors" + PARTIAL):
        for path in folder.glob(pattern):
            if path.name not in keep:
                path.unlink()


def _json(folder: Path, content: dict[str, Any]) -> str:
    try:
        return json.dumps(content, indent=2) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the config for {folder} is no plain data ({error}); pass names, numbers, and lists "
            "or dicts of them."
        ) from error


def _partial(folder: Path, file: str) -> Path:
    return folder / (file + PARTIAL)


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
