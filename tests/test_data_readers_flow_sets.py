"""Every data set of flow in its true layout: what is listed, what is read, what is said of gaps."""

import inspect

import pytest
import torch

from data.readers import pair_files
from data.readers.flow_sets.chairs import chairs_pairs
from data.readers.flow_sets.hd1k import hd1k_pairs
from data.readers.flow_sets.kitti import kitti12_pairs, kitti15_pairs
from data.readers.flow_sets.middlebury import middlebury_pairs
from data.readers.flow_sets.numbers import parts, shifted
from data.readers.flow_sets.sintel import sintel_pairs
from data.readers.flow_sets.spring import spring_pairs
from data.readers.flow_sets.things import things_pairs, things_subset_pairs
from data.readers.pair_files import read_pair
from tests.fake_flow import DATASETS, SHIFT, SIZE, write_kitti, write_spring
from tests.test_data_readers_flow_pairs import warp_back

LISTERS = {
    "sintel": sintel_pairs,
    "kitti15": kitti15_pairs,
    "kitti12": kitti12_pairs,
    "hd1k": hd1k_pairs,
    "middlebury": middlebury_pairs,
    "chairs": chairs_pairs,
    "things": things_pairs,
    "things_subset": things_subset_pairs,
    "spring": spring_pairs,
}
NAMES = {
    "sintel": ["alley_1_frame_0001", "ambush_2_frame_0001"],
    "kitti15": ["000000_10"],
    "kitti12": ["000000_10"],
    "hd1k": ["000000_0009", "000000_0010", "000001_0009", "000001_0010"],
    "middlebury": ["Dimetrodon", "RubberWhale"],
    "chairs": ["00002"],
    "things": ["TEST_A_0000_into_future_left_0006"],
    "things_subset": ["val_left_into_future_0000000"],
    "spring": ["0001_FW_left_0001"],
}


@pytest.fixture(params=DATASETS)
def dataset(request, tmp_path):
    """Name, lister and folder of each."""
    return request.param, LISTERS[request.param], DATASETS[request.param](tmp_path)


def test_pairs_are_listed_in_order_without_reading_a_pixel(dataset, monkeypatch):
    name, lister, root = dataset
    for reader in "_read_image", "read_flow":
        monkeypatch.setattr(pair_files, reader, None)
    pairs = lister(root)
    assert [pair.name for pair in pairs] == NAMES[name]
    assert all("/" not in pair.name for pair in pairs)
    assert pairs[0].size() == SIZE


def test_the_flow_of_every_pair_undoes_its_motion(dataset):
    _, lister, root = dataset
    for pair in map(read_pair, lister(root)):
        if pair.finer is not None:  # the last of a pixel's vectors is true in the fake
            pair = pair_files.FlowPair(**vars(pair) | {"flow": pair.finer[-1]})
        known = pair.valid
        assert torch.equal(
            pair.flow[:, known].T, torch.tensor(SHIFT).float().expand(known.sum(), 2)
        )
        inside = (slice(None), slice(4, -SHIFT[1]), slice(None, -SHIFT[0]))  # the rest left
        torch.testing.assert_close(warp_back(pair)[inside], pair.frame0[inside])
        assert 0 <= pair.frame0.min() < pair.frame0.max() <= 1


@pytest.mark.parametrize("lister", [things_pairs, things_subset_pairs])
@pytest.mark.parametrize("pass_, side", [("clean", "left"), ("final", "right")])
def test_things_go_into_the_past_too(tmp_path, lister, pass_, side):
    root = DATASETS["things" if lister is things_pairs else "things_subset"](tmp_path)
    (files,) = lister(root, pass_=pass_, side=side, direction="past")
    pair = read_pair(files)
    assert f"_{side}_" in pair.name and pass_ in str(files.frame0) and side in str(files.flow)
    assert pair.flow[:, 5, 5].tolist() == [-SHIFT[0], -SHIFT[1]]
    inside = (slice(None), slice(SHIFT[1], None), slice(SHIFT[0], None))
    torch.testing.assert_close(warp_back(pair)[inside], pair.frame0[inside])


def test_spring_goes_backward_too(tmp_path):
    (files,) = spring_pairs(write_spring(tmp_path), side="right", direction="BW")
    assert files.frame0.name == "frame_right_0002.png" and files.frame1.name.endswith("_0001.png")
    assert read_pair(files).finer[-1, :, 5, 5].tolist() == [-SHIFT[0], -SHIFT[1]]


def test_a_gap_in_a_sequence_of_hd1k_is_not_taken_for_its_end(tmp_path):
    root = DATASETS["hd1k"](tmp_path)
    for folder in "hd1k_input/image_2", "hd1k_flow_gt/flow_occ":
        (root / folder / "000000_0010.png").unlink()
    with pytest.raises(ValueError, match=r"000000_0010\.png is missing"):
        hd1k_pairs(root)


def test_masks_of_sintel_say_what_is_hidden_and_what_counts(tmp_path):
    first = read_pair(sintel_pairs(DATASETS["sintel"](tmp_path), pass_="final")[0])
    assert not first.visible[0].any() and first.visible[1:].all()
    assert not first.valid[1].any() and first.valid[[0, *range(2, SIZE[0])]].all()
    assert not first.flow[:, 1].any()
    assert "final" in str(sintel_pairs(tmp_path, pass_="final")[0].frame0)


def test_kitti_is_visible_where_noc_knows_it_and_valid_where_occ_does(tmp_path):
    pair = read_pair(kitti15_pairs(write_kitti(tmp_path))[0])
    assert not pair.valid[0].any() and pair.valid[1:].all()
    assert not pair.visible[1].any() and pair.visible[2:].all()


def test_kitti_2012_is_read_in_gray_where_there_is_no_color(tmp_path):
    (files,) = kitti12_pairs(write_kitti(tmp_path, "image_0"))
    assert files.frame0.parent.name == "image_0"


def test_middlebury_leaves_out_what_is_unknown(tmp_path):
    pair = read_pair(middlebury_pairs(DATASETS["middlebury"](tmp_path))[0])
    assert not pair.valid[2].any() and pair.valid[3:].all() and pair.visible is None


def test_middlebury_is_read_in_gray_where_there_is_no_color(tmp_path):
    root = DATASETS["middlebury"](tmp_path)
    (root / "other-data").rename(root / "other-data-gray")
    assert len(middlebury_pairs(root)) == 2


def test_spring_has_four_vectors_a_pixel_and_takes_the_first_known(tmp_path):
    pair = read_pair(spring_pairs(write_spring(tmp_path))[0])
    assert pair.finer.shape == (4, 2, *SIZE) and pair.finer_known.shape == (4, *SIZE)
    assert pair.valid.all() and not pair.finer_known[0, 0].any() and pair.finer_known[1:].all()
    assert torch.equal(pair.flow[:, 0], pair.finer[1, :, 0])
    assert torch.equal(pair.flow[:, 1:], pair.finer[0, :, 1:])


@pytest.mark.parametrize("split, names", [("train", ["00001", "00003"]), ("val", ["00002"])])
def test_chairs_are_split_by_the_official_file(tmp_path, split, names):
    root = DATASETS["chairs"](tmp_path)
    assert [pair.name for pair in chairs_pairs(root, split=split)] == names
    (root / "FlyingChairs_train_val.txt").unlink()
    assert len(chairs_pairs(root, split="all")) == 3
    with pytest.raises(ValueError, match=r"no split file .* task\.split=all"):
        chairs_pairs(root, split=split)


@pytest.mark.parametrize("text, said", [("1 2", "has 2 lines"), ("1 3 1", "expected 1 or 2")])
def test_a_split_file_of_something_else_is_refused(tmp_path, text, said):
    root = DATASETS["chairs"](tmp_path)
    (root / "FlyingChairs_train_val.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        chairs_pairs(root)


def test_a_data_set_that_is_not_there_says_how_to_get_it(dataset):
    name, lister, root = dataset
    for where in None, root / "nowhere":
        with pytest.raises(ValueError) as caught:
            lister(where)
        said = str(caught.value)
        assert all(part in said for part in ("download", "http", f"task={name} task.root=DIR"))
        assert said.count(". ") == 0 and said.endswith(".")


def test_another_layout_says_what_was_expected_where(dataset, tmp_path_factory):
    _, lister, _ = dataset
    other = tmp_path_factory.mktemp("other")
    (other / "readme.txt").write_text("")
    with pytest.raises(ValueError, match=r"is not laid out as .* expected .* found readme\.txt"):
        lister(other)


def test_a_frame_that_is_missing_is_named(dataset):
    _, lister, root = dataset
    pairs = lister(root)
    pairs[0].frame0.unlink()
    with pytest.raises(ValueError, match=f"{pairs[0].frame0.name} is missing"):
        lister(root)


def test_a_truncated_flow_file_is_named(dataset):
    _, lister, root = dataset
    files = lister(root)[0]
    files.flow.write_bytes(files.flow.read_bytes()[:-50])
    with pytest.raises(ValueError, match=files.flow.name):
        read_pair(files)


def test_flow_of_another_size_is_refused(tmp_path):
    files = spring_pairs(write_spring(tmp_path))[0]
    single = pair_files.PairFiles(**vars(files) | {"finer": 1})
    with pytest.raises(ValueError, match=r"is 48x64 px .* is 24x32;"):
        read_pair(single)


@pytest.mark.parametrize("name", LISTERS)
def test_settings_that_are_not_known_are_refused(name, tmp_path):
    root = DATASETS[name](tmp_path)
    for key in list(inspect.signature(LISTERS[name]).parameters)[1:]:
        with pytest.raises(ValueError, match=rf"task\.{key.strip('_')}=odd is not known"):
            LISTERS[name](root, **{key: "odd"})


def test_the_next_frame_has_as_many_digits():
    assert shifted("frame_0009", 1) == "frame_0010" and shifted("000000_10", 1) == "000000_11"
    assert parts("flow_FW_left_0001") == ("flow_FW_left_", "0001")
    with pytest.raises(ValueError, match="does not end in the number"):
        shifted("frame", 1)
