"""Flow files: exact bytes, round trips, and one sentence for what is damaged."""

import struct

import numpy as np
import pytest
import torch

from data.readers.flow_files import read_flow, write_flow

SUFFIXES = [".flo", ".png", ".npy", ".npz"]


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


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz"])
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
