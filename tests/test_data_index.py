"""index.json is believed only where it agrees with its folder."""

import hashlib
import json

import pytest
from fake_datasets import write_clip_shards

from data.index import read_index, write_whole


def test_an_index_tells_what_the_shards_hold(tmp_path):
    index = read_index(write_clip_shards(tmp_path / "clips", num_clips=10, shard_clips=4))
    assert [shard.samples for shard in index.shards] == [4, 4, 2]
    assert (index.num_samples, index.size, index.clip_frames) == (10, 8, 6)
    for shard in index.shards:
        content = (tmp_path / "clips" / shard.name).read_bytes()
        assert shard.bytes == len(content)
        assert shard.sha256 == hashlib.sha256(content).hexdigest()


def test_a_missing_folder_and_a_missing_index_are_named(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no index\.json"):
        read_index(tmp_path)


def test_a_missing_and_a_cut_off_shard_are_named(tmp_path):
    folder = write_clip_shards(tmp_path, num_clips=5)
    with (folder / "clips-000001.tar").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match=r"clips-000001\.tar has 1000 bytes"):
        read_index(folder)
    (folder / "clips-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"clips-000001\.tar, which is not there"):
        read_index(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "other"}', '{"format": "lras-clips-1", "shards": [1]}']
)
def test_another_file_of_that_name_is_no_index(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match="is not an index of clip shards"):
        read_index(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path):
    folder = write_clip_shards(tmp_path, num_clips=1)
    content = json.loads((folder / "index.json").read_text())
    content["shards"][0]["name"] = "../clips-000000.tar"
    (folder / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="outside its folder"):
        read_index(folder)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a", "not bytes")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
