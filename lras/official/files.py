"""Read a published checkpoint file without running anything that it names.

torch's weights-only reader builds tensors and plain containers from an allow-list of exact names;
one name joins the list, ``argparse.Namespace``, under which training arguments are kept. The file
is memory-mapped: weights are views of it and cost no memory until they are looked at.
"""

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lras.official.names import check_weights

Kind = Literal["predictor", "quantizer"]

WRAPPERS = {"_orig_mod", "_orig_module", "module", "_fsdp_wrapped_module"}  # torch.compile, FSDP
WEIGHT_KEYS = ("weights", "model")
_ALLOWED = [argparse.Namespace]


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
        ValueError: not such a file, a damaged one, or one that names a class or function beyond
            tensors, plain containers and argparse.Namespace; nothing of it is constructed.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {what}; pass the path of a checkpoint file.")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes); copy the file again.")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            if foreign:
                raise _ForeignClassError(path, foreign)
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except _ForeignClassError:
        raise
    # A damaged stream may fail as anything that torch's reader and its checks raise.
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a dict with weights.")
    return state


class _ForeignClassError(ValueError):
    """A file asked for a class or function that is not on the list."""

    def __init__(self, path: Path, names: list[str]) -> None:
        super().__init__(
            f"{path} names {', '.join(sorted(names))}, which is neither a tensor nor a plain "
            "container; nothing of it was run, so save it again with plain data beside the weights."
        )


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error).strip().split(". ")[0].partition("\n")[0].rstrip(".")
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
            f"{path} holds {', '.join(map(str, state)) or 'nothing'}, expected cfg and model or "
            "weights; pass a published LRAS checkpoint."
        )
    cfg, key = state["cfg"], next(key for key in WEIGHT_KEYS if key in state)
    if not isinstance(cfg, Mapping) or not all(isinstance(name, str) for name in cfg):
        raise ValueError(f"{path}: its cfg is a {type(cfg).__name__}, expected a plain dict.")
    found = _kind(path, cfg)
    if kind is not None and kind != found:
        raise ValueError(
            f"{path} holds a {found}, expected a {kind}; pass it as "
            f"{'ckpt' if found == 'predictor' else 'quantizer'}=."
        )
    weights = _unwrapped(path, state[key])
    try:
        check_weights(found, cfg, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    other = {name: value for name, value in state.items() if name not in ("cfg", key)}
    return OfficialFile(path=Path(path), kind=found, cfg=cfg, weights=weights, other=other)


def _kind(path: str | Path, cfg: Mapping[str, Any]) -> Kind:
    """By what the cfg describes; file names and class names were renamed over the years."""
    if "n_layer" in cfg:
        return "predictor"
    if "decoder_blocks" in cfg:
        return "quantizer"
    raise ValueError(
        f"{path}: its cfg holds {', '.join(sorted(cfg)) or 'nothing'}, which describes neither an "
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
            raise ValueError(f"{path} holds {short} twice, once as {name}; the file is damaged.")
        bare[short] = value
    return bare
