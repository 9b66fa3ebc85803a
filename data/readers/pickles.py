"""Pickles of arrays and plain containers, read without running anything they name.

A pickle is a program that may call whatever it names, and even numpy's own unpickling trusts what
it is told. Here every name on a short list stands for a small checked function of ours, so not one
line of numpy's unpickling runs; any other name ends the reading.
"""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PLAIN_KINDS = "biufS"  # bool, integers, floats, byte strings: nothing that holds pointers


class ForeignName(ValueError):
    """A pickle asked for something that is neither an array nor a plain container."""


def read_pickle(path: str | Path) -> Any:
    """What the pickle holds: dicts, lists, tuples, strings, numbers and read-only numpy arrays.

    Raises:
        ValueError: no such file, an empty or damaged one, or one that names a class or function
            other than numpy's arrays.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ValueError(f"{path} {what}; pass the path of a .pkl file.")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes); copy the file again.")
    try:
        with path.open("rb") as file:
            return _finished(_ArrayUnpickler(file).load())
    except ForeignName as error:
        raise ValueError(
            f"{path} names {error}, which is neither an array nor a plain container; nothing of it "
            "was run, so save it again as dicts, lists and numpy arrays."
        ) from error
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is; is it damaged?") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested without end; it is no file of arrays.") from error
    # A damaged stream of opcodes may fail as anything that our checks and pickle's raise.
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    except (AttributeError, LookupError, OverflowError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error).rstrip(".") or type(error).__name__
    return ValueError(
        f"{path} is no readable pickle of arrays ({reason}); it is cut off or damaged."
    )


class _Dtype:
    """Stands in for a numpy dtype: only plain kinds and ``object``, without fields."""

    def __init__(self, kind: str, *_: object) -> None:
        dtype = np.dtype(kind) if isinstance(kind, str) else None
        if dtype is None or (dtype.kind not in PLAIN_KINDS + "O") or dtype.subdtype:
            raise ForeignName(f"the array type {kind!r}")
        self.dtype = dtype

    def __setstate__(self, state: tuple) -> None:
        _, byte_order, subdtype, names, fields = state[:5]
        if subdtype is not None or names is not None or fields is not None:
            raise ForeignName("an array type with fields")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """Stands in for a numpy array until the whole pickle is read."""

    array: np.ndarray | None = None
    items: list | None = None  # of an array of objects, finished at the end
    shape: tuple[int, ...] = ()

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, column_major, content = state
        self.fill(content, dtype, shape, "F" if column_major else "C")

    def fill(self, content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        """Take the content, after checking that it is as long as the shape says."""
        if not isinstance(dtype, _Dtype):
            raise ForeignName("an array without a plain type")
        if dtype.dtype == object:
            if not isinstance(content, list) or len(content) != math.prod(shape) or order != "C":
                raise ValueError(f"an array of {shape} objects does not hold so many")
            self.items, self.shape = content, shape
        else:
            self.array = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
            self.array.flags.writeable = False

    def finished(self) -> np.ndarray:
        """The array itself."""
        if self.array is not None:
            return self.array
        if self.items is None:
            raise ValueError("an array without content")
        array = np.empty(len(self.items), object)
        for index, item in enumerate(self.items):
            array[index] = _finished(item)
        return array.reshape(self.shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()  # its content comes by __setstate__


def _frombuffer(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, *_: Any) -> _Array:
    array = _Array()
    array.fill(content, dtype, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ForeignName(f"the encoding {encoding!r}")
    return text.encode("latin1")  # how old protocols write bytes


class _NdarrayType:
    """Stands in for ``numpy.ndarray``, which a pickle only names; it is not to be called."""

    def __init__(self, *_: object) -> None:
        raise ForeignName("numpy.ndarray as a function")


_KNOWN: dict[tuple[str, str], Callable] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _NdarrayType,
    ("_codecs", "encode"): _encode,
    # ``__builtin__``: as Python 2 and the old protocols call it.
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (bytes, bytearray, list, dict, tuple)
    },
    ("collections", "OrderedDict"): dict,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        """Ours for a name on the list. subtle: the exact name, so no attribute is looked up."""
        if (module, name) not in _KNOWN:
            raise ForeignName(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: object) -> None:
        raise ForeignName("an object kept outside of it")


def _finished(value: Any) -> Any:
    """Containers with every stand-in replaced by its array."""
    if isinstance(value, _Array):
        return value.finished()
    if isinstance(value, dict):
        return {key: _finished(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_finished(item) for item in value)
    return value
