"""Read a published checkpoint file without running anything that it names.

What the file would build is compared with a list of exact names first (``lras.official.archive``),
then torch's weights-only reader builds tensors and plain containers. The file is memory-mapped:
weights are views of it and cost no memory until they are looked at.
"""

import argparse
import itertools
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lras.official.archive import RefusedFileError, check_archive
from lras.official.names import check_weights
from lras.shown import shown

Kind = Literal["predictor", "quantizer"]

WRAPPERS = {"_orig_mod", "_orig_module", "module", "_fsdp_wrapped_module"}  # torch.compile, FSDP
WEIGHT_KEYS = ("weights", "model")
MAX_DEPTH, MAX_VALUES = 8, 10_000  # of a cfg
_UNREADABLE = (  # whatever torch's reader and its checks raise at a damaged stream
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError, MemoryError),
    *(RuntimeError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError),
    AssertionError,
)


@dataclass(frozen=True, kw_only=True)
class OfficialFile:
    """A published checkpoint: its cfg and its weights by their published names, memory-mapped."""

    path: Path
    kind: Kind
    cfg: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    other: Mapping[str, Any] = field(default_factory=dict)  # what else lies in the file


def read_torch_file(path: str | Path) -> dict[str, Any]:
    """The dict that ``torch.save`` wrote; its tensors are views of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, a damaged or compressed one, or one that names a class or
            function beyond tensors, plain containers and argparse.Namespace; nothing of it is
            constructed.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {what}; pass the path of a checkpoint file.")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes); copy the file again.")
    try:
        check_archive(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except RefusedFileError:
        raise
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a dict with weights.")
    return state


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error).strip().split(". ")[0].partition("\n")[0].rstrip(".")[:200]
    reason = reason or type(error).__name__
    return ValueError(
        f"{path} is no readable checkpoint of torch.save's zip format ({reason}); it is cut off, "
        "damaged or of another kind, so copy it again."
    )


def is_official(state: Mapping[str, Any]) -> bool:
    """Whether a file's dict is laid out as the published ones are."""
    return "cfg" in state and any(key in state for key in WEIGHT_KEYS)


def read_official(path: str | Path, kind: Kind | None = None) -> OfficialFile:
    """A published checkpoint, its cfg checked against its tensors.

    Raises:
        FileNotFoundError, ValueError: as ``read_torch_file``; or the file lacks cfg or weights, is
            of another ``kind`` than asked for, or contradicts itself.
    """
    return as_official(path, read_torch_file(path), kind)


def as_official(
    path: str | Path, state: Mapping[str, Any], kind: Kind | None = None
) -> OfficialFile:
    """The same of a dict that is already read."""
    if not is_official(state):
        raise ValueError(
            f"{path} holds {_listed(state)}, expected cfg and model or "
            "weights; pass a published LRAS checkpoint."
        )
    cfg, key = state["cfg"], next(key for key in WEIGHT_KEYS if key in state)
    if not isinstance(cfg, Mapping) or not all(isinstance(name, str) for name in cfg):
        raise ValueError(
            f"{path}: its cfg is a {type(cfg).__name__}, expected a dict of named values."
        )
    _check_plain(path, cfg)
    found = _kind(path, cfg)
    if kind is not None and kind != found:
        raise ValueError(
            f"{path} holds a {found}, expected a {kind}; pass it as "
            f"{'ckpt' if found == 'predictor' else 'quantizer'}=."
        )
    weights = _unwrapped(path, state[key])
    _check_memory(path, weights)
    try:
        check_weights(found, cfg, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    other = {name: value for name, value in state.items() if name not in ("cfg", key)}
    return OfficialFile(path=Path(path), kind=found, cfg=cfg, weights=weights, other=other)


def _listed(names: Iterable[Any]) -> str:
    return (
        ", ".join(shown(name, 60).strip("'") for name in itertools.islice(names, 12)) or "nothing"
    )


def _check_plain(path: str | Path, cfg: Mapping[str, Any]) -> None:
    """Whether a cfg is what a config.json can hold; its tuples may come back as lists."""
    left = MAX_VALUES
    for key, whole in cfg.items():
        todo = [(whole, 1)]
        while todo:
            value, depth = todo.pop()
            left -= 1
            if not _is_plain(value) or depth > MAX_DEPTH or left < 0:
                raise ValueError(
                    f"{path}: its cfg says {shown(key, 60)}: {shown(whole)}, expected plain data "
                    "(names, numbers, and short lists, tuples or dicts of them); save it again "
                    "without."
                )
            if isinstance(value, dict | list | tuple):
                items = value.values() if isinstance(value, dict) else value
                todo += [(item, depth + 1) for item in itertools.islice(items, left + 1)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) for name in value)
    whole = isinstance(value, int) and abs(value) < 2**63
    return whole or isinstance(value, str | float | list | tuple | None)


def _check_memory(path: str | Path, weights: Mapping[str, Tensor]) -> None:
    """Whether the file holds its tensors' numbers, once each or (a tied head) twice.

    A few bytes can pass for a large tensor: each of its numbers read from the same place.
    """
    small = [name for name, one in weights.items() if one.nbytes > one.untyped_storage().nbytes()]
    total = sum(value.nbytes for value in weights.values())
    if small or total > 2 * Path(path).stat().st_size:
        raise ValueError(
            f"{path} holds fewer numbers than {small[0] if small else 'its tensors'} should have; "
            "it repeats some, save it again with contiguous tensors."
        )


def _kind(path: str | Path, cfg: Mapping[str, Any]) -> Kind:
    """By what the cfg describes; file names and class names were renamed over the years."""
    if "n_layer" in cfg:
        return "predictor"
    if "decoder_blocks" in cfg:
        return "quantizer"
    raise ValueError(
        f"{path}: its cfg holds {_listed(sorted(cfg))}, which describes neither an "
        "LRAS predictor (n_layer, ...) nor its quantizer (decoder_blocks, ...)."
    )


def _unwrapped(path: str | Path, weights: Any) -> dict[str, Tensor]:
    """Weights without the names of what wrapped the model when it was saved."""
    plain = isinstance(weights, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )
    if not plain:
        raise ValueError(f"{path}: its weights are no dict of named tensors; the file is damaged.")
    bare = {}
    for name, value in weights.items():
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if short in bare:
            both = f"{_listed([short])} twice, once as {_listed([name])}"
            raise ValueError(f"{path} holds {both}; the file is damaged.")
        bare[short] = value
    return bare
