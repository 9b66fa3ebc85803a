"""Flow files: exact bytes, round trips, and one sentence for what is damaged."""

import re
import struct
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.readers.flow_files import read_flow, write_flow

SUFFIXES = [".flo", ".pfm", ".flo5", ".png", ".npy", ".npz"]
SIDES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)


def field(height=3, width=5):
    """Multiples of 1/64 px, which every format can hold."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-2000, 2000, (2, height, width), generator=generator).float() / 64


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back_exactly(tmp_path, suffix):
    flow, valid = field(), torch.ones(3, 5, dtype=torch.bool)
    valid[1, 2] = False
    write_flow(tmp_path / f"flow{suffix}", flow, valid)
    back, back_valid = read_flow(tmp_path / f"flow{suffix}")
    assert torch.equal(back, flow * valid) and torch.equal(back_valid, valid)


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".png"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_float32_survives_every_bit(suffix, data):
    size = data.draw(SIDES)
    numbers = st.floats(-(2.0**29), 2.0**29, width=32)
    flow = data.draw(arrays.arrays(np.float32, (2, *size), elements=numbers))
    valid = data.draw(arrays.arrays(bool, size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"flow{suffix}"
        write_flow(path, torch.from_numpy(flow), torch.from_numpy(valid))
        back, back_valid = read_flow(path)
    assert np.array_equal(back_valid, valid)
    assert np.array_equal(back, np.where(valid, flow, 0))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_kitti_rounds_to_the_nearest_64th_of_a_pixel(data):
    size = data.draw(SIDES)
    numbers = st.floats(-512.0, 511.96875, width=32)
    flow = data.draw(arrays.arrays(np.float32, (2, *size), elements=numbers))
    valid = data.draw(arrays.arrays(bool, size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.png"
        write_flow(path, torch.from_numpy(flow), torch.from_numpy(valid))
        back, back_valid = read_flow(path)
    assert np.array_equal(back_valid, valid)
    assert (np.abs(back.numpy() - flow)[:, valid] <= 1 / 128).all()
    assert (back.numpy() * 64 % 1 == 0).all() and not back[:, ~back_valid].any()


def test_a_pfm_file_is_read_bottom_row_first_in_either_byte_order(tmp_path):
    rows = [[3.0, 4.0, 0.0], [1.0, -2.0, 0.0]]  # the top row stands last
    for scale, order in ("-1.0", "<"), ("1", ">"):
        path = tmp_path / "two.pfm"
        values = struct.pack(f"{order}6f", *rows[0], *rows[1])
        path.write_bytes(f"PF\n1 2\n{scale}\n".encode() + values)
        flow, valid = read_flow(path)
        assert flow.tolist() == [[[1.0], [3.0]], [[-2.0], [4.0]]] and valid.all()


def test_a_flo5_file_holds_one_array_named_flow_and_nan_where_it_is_unknown(tmp_path):
    path = tmp_path / "two.flo5"
    with h5py.File(path, "w") as file:
        file["flow"] = np.array([[[1.0, -2.0], [np.nan, 0.0]]], np.float32)
    flow, valid = read_flow(path)
    assert flow.tolist() == [[[1.0, 0.0]], [[-2.0, 0.0]]] and valid.tolist() == [[True, False]]
    write_flow(tmp_path / "again.flo5", flow, valid)
    with h5py.File(tmp_path / "again.flo5") as file:
        stored = file["flow"][()]
    assert stored.dtype == np.float32 and stored.shape == (1, 2, 2) and np.isnan(stored[0, 1]).all()


@pytest.mark.parametrize("write", [True, False])
def test_without_h5py_one_sentence_says_what_to_install(tmp_path, monkeypatch, write):
    path = tmp_path / "two.flo5"
    write_flow(path, field())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"two\.flo5 is HDF5, .*: pip install h5py\.$"):
        if write:
            write_flow(path, field())
        else:
            read_flow(path)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"Pf\n1 1\n-1.0\n" + bytes(4), "is gray (Pf)"),
        (b"PF\n0 1\n-1.0\n", "states a size of 0x1 px"),
        (b"PF\n1 1\n0.0\n" + bytes(12), "states a scale of 0.0"),
        (b"PF\n1 1\nnan\n" + bytes(12), "states a scale of nan"),
        (b"PF\n1 1\nbig\n" + bytes(12), "states a scale of big"),
        (b"PF\n1 1\n-1.0\n" + bytes(13), "but 1x1 px take"),
        (b"P6\n1 1\n255\n" + bytes(3), "does not begin as a .pfm file"),
    ],
)
def test_a_pfm_file_that_holds_no_flow_is_refused(tmp_path, content, said):
    (tmp_path / "odd.pfm").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        read_flow(tmp_path / "odd.pfm")


@pytest.mark.parametrize(
    "name, values", [("disparity", np.zeros((2, 2))), ("flow", np.zeros((2, 2))), ("flow", [1, 2])]
)
def test_a_flo5_file_of_something_else_is_refused(tmp_path, name, values):
    with h5py.File(tmp_path / "odd.flo5", "w") as file:
        file[name] = values
    with pytest.raises(ValueError, match=r"odd\.flo5 is no readable \.flo5 file"):
        read_flow(tmp_path / "odd.flo5")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_breaks_off_is_refused_in_every_format(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    write_flow(path, field(40, 50))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"cut\{suffix}"):
        read_flow(path)


def test_a_flo_file_is_read_as_middlebury_lays_it_out(tmp_path):
    path = tmp_path / "two.flo"
    path.write_bytes(b"PIEH" + struct.pack("<ii4f", 2, 1, 1.0, -2.0, 3.0, 4.0))
    flow, valid = read_flow(path)
    assert flow.tolist() == [[[1.0, 3.0]], [[-2.0, 4.0]]] and valid.all()
    write_flow(tmp_path / "again.flo", flow)
    assert (tmp_path / "again.flo").read_bytes() == path.read_bytes()


def test_unknown_flow_is_zero_and_not_valid(tmp_path):
    path = tmp_path / "unknown.flo"
    path.write_bytes(b"PIEH" + struct.pack("<ii6f", 3, 1, 1e10, 1e10, 0, float("nan"), 1, 2))
    flow, valid = read_flow(path)
    assert valid.tolist() == [[False, False, True]]
    assert flow.tolist() == [[[0.0, 0.0, 1.0]], [[0.0, 0.0, 2.0]]]


def test_numpy_arrays_are_read_in_both_layouts(tmp_path):
    flow = field()
    np.save(tmp_path / "first.npy", flow.numpy())
    np.save(tmp_path / "last.npy", flow.movedim(0, -1).numpy())
    for name in "first.npy", "last.npy":
        assert torch.equal(read_flow(tmp_path / name)[0], flow)


def test_a_wrong_magic_is_refused_naming_the_file(tmp_path):
    path = tmp_path / "wrong.flo"
    path.write_bytes(struct.pack("<fii2f", 1.0, 1, 1, 0, 0))
    with pytest.raises(ValueError, match=r"wrong\.flo is no \.flo file: it begins with 1\.0"):
        read_flow(path)


@pytest.mark.parametrize("length", [0, 11, 12, 100])
def test_a_cut_off_flo_file_is_refused(tmp_path, length):
    path = tmp_path / "cut.flo"
    write_flow(path, field())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"cut\.flo has {length} bytes"):
        read_flow(path)


def test_an_absurd_size_is_refused(tmp_path):
    path = tmp_path / "huge.flo"
    path.write_bytes(b"PIEH" + struct.pack("<ii", -1, 2**30))
    with pytest.raises(ValueError, match="states a size of -1x1073741824 px"):
        read_flow(path)


@pytest.mark.parametrize("suffix", [".pfm", ".flo5", ".png", ".npy", ".npz"])
def test_noise_is_refused_in_every_format(tmp_path, suffix):
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(b"noise" * 20)
    with pytest.raises(ValueError, match=rf"noise\{suffix}"):
        read_flow(path)


def test_arrays_of_another_shape_and_pickles_are_refused(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"float64 \(4, 4\); expected \(2, H, W\)"):
        read_flow(tmp_path / "flat.npy")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds no readable flow"):
        read_flow(tmp_path / "pickle.npy")
    np.savez(tmp_path / "other.npz", disparity=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="holds no readable flow"):
        read_flow(tmp_path / "other.npz")


def test_missing_files_and_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no flow file"):
        read_flow(tmp_path / "gone.flo")
    (tmp_path / "flow.txt").write_text("")
    with pytest.raises(ValueError, match="no known flow format"):
        read_flow(tmp_path / "flow.txt")
    with pytest.raises(ValueError, match="no known flow format"):
        write_flow(tmp_path / "flow.jpg", field())


def test_kitti_refuses_flow_it_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match=r"within \+-512 px"):
        write_flow(tmp_path / "far.png", torch.full((2, 1, 1), 600.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.shared
def test_kitti_png_agrees_with_the_flo_file_made_from_it(shared_root):
    folder = shared_root / "data" / "flow_gt" / "kitti_000000"
    (flow, valid), (flo, flo_valid) = (
        read_flow(folder / name) for name in ("flow_kitti16.png", "flow.flo")
    )
    assert torch.equal(valid, flo_valid) and torch.equal(flow, flo)
