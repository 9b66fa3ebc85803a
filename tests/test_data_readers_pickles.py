"""Pickles of arrays: what numpy wrote comes back, and nothing that a file names is ever run."""

import collections
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from data.readers.pickles import read_pickle

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.arange(6, dtype=np.float64).reshape(2, 3).T,  # column-major
    np.arange(5, dtype=">i2"),
    np.array([[True, False]]),
    np.array([b"one", b"three"]),
    np.zeros((0, 2), np.float32),
    np.array(3.5),
]


def written(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_an_array_comes_back_as_it_was_whatever_the_protocol(array, protocol, tmp_path):
    got = read_pickle(written(tmp_path / "a.pkl", {"x": array, "again": array}, protocol))
    assert got["x"].dtype == array.dtype and np.array_equal(got["x"], array)
    assert got["x"].shape == array.shape
    assert not got["x"].flags.writeable
    assert np.array_equal(got["again"], array)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects_and_plain_containers_come_back(protocol, tmp_path):
    files = np.array([b"\xff\xd8\x00", b"", b"third"], object)
    held = [{"video": files, 3: ("a", 2.5, None, True, b"raw")}, np.array([[1, [2]]], object)]
    got = read_pickle(written(tmp_path / "a.pkl", held, protocol))
    assert got[0]["video"].tolist() == files.tolist() and got[0][3] == held[0][3]
    assert got[1].shape == (1, 2) and got[1].tolist() == [[1, [2]]]


def test_names_of_numpy_before_and_after_version_2_are_known(tmp_path):
    new = pickle.dumps([np.arange(3)], protocol=2)
    assert b"numpy._core.multiarray" in new
    for name, content in ("new", new), ("old", new.replace(b"numpy._core.", b"numpy.core.")):
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(content)
        assert read_pickle(path)[0].tolist() == [0, 1, 2]


class Calls:
    """Pickled, it asks the reader to call a function."""

    def __init__(self, function, *arguments):
        self.asks = function, arguments

    def __reduce__(self):
        return self.asks


class Point:
    """A class that no reader of arrays knows."""


FOREIGN = {
    "posix.system": lambda p: Calls(os.system, f"touch {p}/ran"),
    "os.remove": lambda p: Calls(os.mkdir, f"{p}/ran"),
    "builtins.eval": lambda p: Calls(eval, f"open({str(p / 'ran')!r}, 'w')"),
    "builtins.getattr": lambda p: Calls(getattr, [], "append"),
    "a class": lambda p: Point(),
    "a subclass of a container": lambda p: collections.Counter("ab"),
    "numpy.ndarray as a function": lambda p: Calls(np.ndarray, (2,), "f4"),
    "numpy.frombuffer": lambda p: Calls(np.frombuffer, b"1234"),
    "a set": lambda p: Calls(set, [1]),
    "fields": lambda p: np.zeros(2, [("pointer", "u8")]),
    "an array of dates": lambda p: np.array(["2020-01-01"], "M8[D]"),
    "a nested one": lambda p: [{"video": np.array([Point()], object)}],
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_name_ends_the_reading_and_nothing_is_run(case, protocol, tmp_path):
    path = written(tmp_path / "bad.pkl", FOREIGN[case](tmp_path), protocol)
    with pytest.raises(ValueError, match=r"bad\.pkl names .* nothing of it was run") as error:
        read_pickle(path)
    assert not (tmp_path / "ran").exists()
    assert len(str(error.value).splitlines()) == 1


def test_the_foreign_name_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"names collections\.Counter, which"):
        read_pickle(written(tmp_path / "a.pkl", collections.Counter("ab")))


def test_a_dotted_name_reaches_no_attribute_of_a_known_one(tmp_path):
    dotted = b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93."
    (tmp_path / "a.pkl").write_bytes(dotted)
    with pytest.raises(ValueError, match=r"names numpy\.ndarray\.dumps"):
        read_pickle(tmp_path / "a.pkl")


def test_a_type_that_claims_to_hold_no_pointers_but_does_is_refused(tmp_path):
    """numpy itself believes the flags of a pickled type, and would take bytes for pointers."""
    state = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    calls = Calls(np.dtype, "V8", False, True)
    calls.__class__ = type("Typed", (Calls,), {"__reduce__": lambda self: (*self.asks, state)})
    path = written(tmp_path / "bad.pkl", [calls])
    with pytest.raises(ValueError, match="names the array type 'V8'"):
        read_pickle(path)
    calls.asks = np.dtype, ("O8", False, True)
    with pytest.raises(ValueError, match="names an array type with fields"):
        read_pickle(written(path, [calls]))


def test_contents_that_do_not_fill_the_shape_are_named(tmp_path):
    content = pickle.dumps(np.arange(8, dtype=np.uint8), protocol=4)
    (size,) = (
        at for op, arg, at in pickletools.genops(content) if op.name == "BININT1" and arg == 8
    )
    path = tmp_path / "a.pkl"
    path.write_bytes(content[: size + 1] + struct.pack("B", 9) + content[size + 2 :])
    with pytest.raises(ValueError, match="cut off or damaged"):
        read_pickle(path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(share, tmp_path):
    content = pickle.dumps([{"video": np.arange(500), "name": "x"}] * 3)
    path = tmp_path / "cut.pkl"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.pkl is (no readable pickle|empty)"):
        read_pickle(path)


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_file_is_one_sentence_or_still_plain_data(seed, tmp_path):
    content = bytearray(pickle.dumps([{"video": np.arange(20), "name": "x"}], protocol=seed % 6))
    generator = np.random.default_rng(seed)
    for _ in range(3):
        content[generator.integers(len(content))] = generator.integers(256)
    path = tmp_path / "damaged.pkl"
    path.write_bytes(bytes(content))
    try:
        read_pickle(path)
    except ValueError as error:
        assert str(error).startswith(str(path))


def test_no_file_a_folder_and_a_text_are_named(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match="is a folder"):
        read_pickle(tmp_path)
    (tmp_path / "a.txt").write_text("hello, world")
    with pytest.raises(ValueError, match="no readable pickle"):
        read_pickle(tmp_path / "a.txt")


def test_a_claim_of_more_memory_than_there_is_is_named(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Calls(bytes, 2**62), protocol=4))
    with pytest.raises(ValueError, match="more memory"):
        read_pickle(tmp_path / "a.pkl")
