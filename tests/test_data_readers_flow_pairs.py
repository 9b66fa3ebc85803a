"""Folders of flow pairs: what they hold, what they lack, and whether real flow explains motion."""

import pytest
import torch
from fake_datasets import write_flow_pair

from data.coords import pixel_centers, sample_at
from data.readers.flow_pairs import find_flow_pairs, read_flow_pair, read_flow_pairs


def warp_back(pair, step=1):
    """Frame 1 seen from frame 0: each pixel fetched from where the flow says it went."""
    height, width = pair.flow.shape[1:]
    points = (pixel_centers(height, width) + pair.flow.movedim(0, -1))[::step, ::step]
    fetched = sample_at(pair.frame1[None], points.reshape(1, -1, 2))
    return fetched[0].T.reshape(3, *points.shape[:2])


def test_pairs_are_read_in_order_of_their_names(tmp_path):
    for name in "b", "a":
        write_flow_pair(tmp_path / name)
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "empty").mkdir()
    assert [pair.name for pair in read_flow_pairs(tmp_path)] == ["a", "b"]


def test_a_known_translation_is_undone_by_its_flow(tmp_path):
    pair = read_flow_pair(write_flow_pair(tmp_path / "moved", shift=(3, -2)))
    assert pair.flow[:, 4, 4].tolist() == [3.0, -2.0]
    assert pair.frame0.dtype == torch.float32 and 0 <= pair.frame0.min() < pair.frame0.max() <= 1
    inside = (slice(None), slice(2, None), slice(None, -3))  # the rest left the frame
    torch.testing.assert_close(warp_back(pair)[inside], pair.frame0[inside])
    assert pair.valid.all() and pair.visible is None


def test_masks_say_what_is_valid_and_visible(tmp_path):
    pair = read_flow_pair(write_flow_pair(tmp_path / "masked", masks=True))
    assert not pair.valid[0].any() and pair.valid[1:].all()
    assert not pair.visible[:, 0].any() and pair.visible[:, 1:].all()


def test_a_missing_and_an_empty_root_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        read_flow_pairs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no flow pair"):
        find_flow_pairs(tmp_path)


def test_frames_of_different_size_are_refused(tmp_path):
    folder = write_flow_pair(tmp_path / "odd", size=(12, 16), frame1_size=(12, 14))
    with pytest.raises(ValueError, match=r"frame1\.png is 12x14 px .* is 12x16"):
        read_flow_pair(folder)


def test_flow_of_another_size_is_refused(tmp_path):
    folder = write_flow_pair(tmp_path / "odd", size=(12, 16), flow_size=(6, 8))
    with pytest.raises(ValueError, match=r"flow\.flo is 6x8 px .* is 12x16"):
        read_flow_pair(folder)


@pytest.mark.parametrize("name", ["frame1.png", "flow.flo"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = write_flow_pair(tmp_path / "pair")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_flow_pair(folder)


@pytest.mark.parametrize("name", ["frame0.png", "valid.png"])
def test_an_unreadable_image_is_named(tmp_path, name):
    folder = write_flow_pair(tmp_path / "pair", masks=True)
    (folder / name).write_bytes(b"noise")
    with pytest.raises(ValueError, match="is not a readable image"):
        read_flow_pair(folder)


@pytest.mark.shared
def test_real_flow_explains_frame0_better_than_no_motion(shared_root):
    names = []
    for pair in read_flow_pairs(shared_root / "data" / "flow_gt"):
        frame0, frame1, valid = (x[..., ::3, ::3] for x in (pair.frame0, pair.frame1, pair.valid))
        still = (frame0 - frame1).abs().mean(0)[valid].mean()
        moved = (frame0 - warp_back(pair, step=3)).abs().mean(0)[valid].mean()
        assert moved < 0.6 * still, pair.name
        names.append(pair.name)
    assert len(names) == 10
