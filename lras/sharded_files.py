"""Distributed checkpoints: a folder that many processes wrote, read whole by one.

Written by torch.distributed.checkpoint under FSDP2 (``trainer=fsdp``): ``.metadata`` and one or
more ``.distcp`` files per process with weights and optimizer states under their full names, and
``meta.pt`` with the rest. Whoever trains with another number of processes, or without sharding,
gets from ``read_sharded`` what a .ckpt of one process would have held. No code from a file is run:
``.metadata`` is a pickle, and read by a reader that knows exact names only.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException, FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

META = "meta.pt"  # Lightning's name
INDEX = ".metadata"  # torch's
CHECKPOINT = "torch.distributed.checkpoint"
PARTS = "Metadata TensorStorageMetadata TensorProperties BytesStorageMetadata StorageMeta"
PARTS += " ChunkStorageMetadata MetadataIndex _MEM_FORMAT_ENCODING"
DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
ALLOWED = {
    f"{CHECKPOINT}.metadata": set(PARTS.split()),
    f"{CHECKPOINT}.filesystem": {"_StorageInfo"},
    "torch": {"Size", *DTYPES.split()},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
}


DAMAGE = (CheckpointException, RuntimeError, OSError, LookupError, EOFError, TypeError)
DAMAGE += (pickle.UnpicklingError,)


def is_sharded(path: Path) -> bool:
    """Whether a distributed checkpoint lies at ``path``."""
    return (path / META).is_file() and (path / INDEX).is_file()


def read_meta(path: Path) -> dict[str, Any]:
    """All but weights and optimizer states: steps, schedules, callbacks, configs."""
    return torch.load(path / META, map_location="cpu", weights_only=True)


def read_sharded(path: Path, optimizers: bool = True, weights: str = "") -> dict[str, Any]:
    """The whole checkpoint on the CPU, optimizer states numbered as a plain optimizer's are.

    Without ``optimizers``, only weights whose names begin with ``weights``: no byte of the others.

    Raises:
        ValueError: the folder is damaged.
    """
    wanted = "" if optimizers else f"state_dict.{weights}"
    content: dict[str, Any] = {}
    try:
        _load_state_dict(
            content,
            storage_reader=_Reader(path),
            planner=_Planner(wanted),
            no_dist=True,
        )
        state = read_meta(path) | {"state_dict": content.pop("state_dict")}
    except DAMAGE as error:
        raise ValueError(
            f"the distributed checkpoint {path} cannot be read ({type(error).__name__}); go on "
            f"from an earlier one beside it."
        ) from error
    if optimizers:
        names = sorted(content, key=lambda name: int(name.rpartition("_")[2]))
        state["optimizer_states"] = [numbered(content[name]) for name in names]
    return state


def numbered(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by the places of its parameters, of one by their names."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    place = {name: index for index, name in enumerate(names)}
    return {
        "state": {place[name]: values for name, values in state.get("state", {}).items()},
        "param_groups": [
            group | {"params": [place[name] for name in group["params"]]}
            for group in state["param_groups"]
        ],
    }


class _Reader(FileSystemReader):
    """torch's, but with a reader of ``.metadata`` that knows its own few names and no others."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        with (Path(self.path) / INDEX).open("rb") as file:
            metadata = _Unpickler(file).load()
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Planner(_EmptyStateDictLoadPlanner):
    """torch's, but plain values (rates, names, counts) are read as plain values only.

    ``wanted``: what the dotted path of a value begins with to be read.
    """

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted = wanted

    def _should_include_key(self, key: str, metadata: Metadata) -> bool:
        return key.startswith(self.wanted)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
