"""What a torch.save file would build, looked up before anything of it is built.

Such a file is a zip archive of one small pickle (containers, names, sizes) and the tensors' bytes,
all stored as they are. This reads the archive's directory and runs through the pickle's
instructions without carrying them out.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from lras.shown import shown

MAX_PICKLE = 16 * 2**20  # bytes; that of the published 7B has about 30 kB
MAX_STEPS = 500_000  # of the pickle; a tensor takes about 25
MAX_DEPTH, MAX_ITEMS = 50, 10_000  # of a tuple, with all that is in it

_STORAGES = (
    *("BFloat16", "Bool", "Byte", "Char", "ComplexDouble", "ComplexFloat"),
    *("Double", "Float", "Half", "Int", "Long", "Short"),
)
# Every name that may be built: tensors, plain containers, training arguments.
ALLOWED = {
    "argparse.Namespace",
    "collections.OrderedDict",
    "builtins.set",
    "__builtin__.set",
    "_codecs.encode",  # bytes
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.storage.UntypedStorage",
    *(f"torch._utils._rebuild_{kind}" for kind in ("parameter", "tensor_v2", "tensor_v3")),
    *(f"torch.{kind}Storage" for kind in _STORAGES),
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
}

_GROWING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")


class RefusedFileError(ValueError):
    """A file that could be read, but is not: compressed, with foreign names, or absurdly nested."""


def check_archive(path: Path) -> None:
    """Look at a file's directory and its pickle; nothing is built.

    Raises:
        RefusedFileError: it is compressed, names what is not ``ALLOWED``, or nests absurdly.
        ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile: the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise RefusedFileError(
                f"{path} is compressed ({packed[0]}), but torch.save stores tensors as they are; "
                "unpack it and zip it without compression, or take the original file."
            )
        pickles = [entry for entry in entries if _last_part(entry) == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} entries data.pkl")
        if pickles[0].file_size > MAX_PICKLE:
            raise RefusedFileError(
                f"{path}: what describes its tensors has {pickles[0].file_size:,} bytes, expected "
                f"at most {MAX_PICKLE:,}; take the original file."
            )
        content = archive.read(pickles[0])
    foreign = sorted(set(_names(path, content)) - ALLOWED)
    if foreign:
        named = shown(", ".join(foreign))[1:-1]
        raise RefusedFileError(
            f"{path} names {named}, which is neither a tensor nor a plain "
            "container; nothing of it was run, so save it again with plain data beside the weights."
        )


def _last_part(entry: zipfile.ZipInfo) -> str:
    return entry.filename.replace("\\", "/").rpartition("/")[2].lower()  # torch ignores case


def _names(path: Path, content: bytes) -> Iterator[str]:
    """The classes and functions that a pickle names; RefusedFileError where tuples nest absurdly.

    A tuple can be a dict's key, and hashing one walks through all of it, however often it holds
    the same other one. So this counts for everything on the unpickler's stack how deep it is and
    of how many items; both are exact for what can be hashed, which never changes once it is there.
    """
    stack: list[_Size | None] = []
    memo: dict[int, _Size] = {}
    for step, (op, value, _) in enumerate(pickletools.genops(content)):
        if op.name == "GLOBAL":
            yield value.replace(" ", ".", 1)
        if op.name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1] or _Size()
            continue
        if op.name == "MARK":
            stack.append(None)
            continue
        size = _sized(op.name, _taken(stack, op))
        if op.stack_after:
            stack.append(memo[value] if op.name in ("BINGET", "LONG_BINGET") else size)
        absurd = op.name.startswith("TUPLE") and (size.depth > MAX_DEPTH or size.items > MAX_ITEMS)
        if absurd or step > MAX_STEPS:
            raise RefusedFileError(
                f"{path} holds containers nested in one another beyond all measure; it is "
                "damaged or malicious, take the original file."
            )


class _Size(NamedTuple):
    depth: int = 1
    items: int = 1  # with those of its items


def _taken(stack: list[_Size | None], op: pickletools.OpcodeInfo) -> list[_Size]:
    """Pop what an instruction takes from the stack."""
    names = [one.name for one in op.stack_before]
    taken = []
    if "mark" in names:
        while (one := stack.pop()) is not None:
            taken.append(one)
        names = names[: names.index("mark")]
    taken += [stack.pop() for _ in names]
    if None in taken:
        raise ValueError("its pickle takes what is not on the stack")
    return taken[::-1]


def _sized(name: str, parts: list[_Size]) -> _Size:
    """The size of what an instruction makes of what it took."""
    depths = [1 + part.depth for part in parts]
    if name in _GROWING:  # the first part is the container that is added to
        depths[0] -= 1
    return _Size(max(depths, default=1), 1 + sum(part.items for part in parts))
