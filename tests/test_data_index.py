"""index.json is believed only where it agrees with its folder; its offsets find every sample."""

import hashlib
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from fake_datasets import write_clip_shards

from data.index import ShardWriter, merge_index, read_index, write_whole
from data.shard_index import Shard, ShardIndex


def test_an_index_tells_what_the_shards_hold(tmp_path):
    index = read_index(write_clip_shards(tmp_path / "clips", num_clips=10, shard_clips=4))
    assert [shard.samples for shard in index.shards] == [4, 4, 2]
    assert (index.num_samples, index.size, index.clip_frames) == (10, 8, 6)
    assert (index.kind, index.fps, index.fingerprint) == ("clips", None, None)
    for shard in index.shards:
        content = (tmp_path / "clips" / shard.name).read_bytes()
        assert shard.bytes == len(content)
        assert shard.sha256 == hashlib.sha256(content).hexdigest()


# --- offsets and sources -----------------------------------------------------------------------


def write_named(folder, names, prefix="clips", shard_clips=3, source="{}.mp4", **options):
    writer = ShardWriter(folder, shard_clips, 8, 6, {"fps": None}, prefix=prefix, **options)
    for number, name in enumerate(names):
        about = json.dumps({"source": source.format(number // 2)}).encode()
        writer.write({"__key__": name, "json": about, "000.jpg": name.encode() * 100 * number})
    return writer


def test_every_sample_is_found_by_its_number_without_reading_what_is_before_it(tmp_path):
    names = [f"{n}-{'long' * (40 * (n == 4))}" for n in range(7)]
    write_named(tmp_path, names).finish()
    index = read_index(tmp_path)
    for number, name in enumerate(names):
        shard, start, length = index.locate(number)
        content = (tmp_path / index.shards[shard].name).read_bytes()[start : start + length]
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        assert members[f"{name}.000.jpg"] == name.encode() * 100 * number
        assert set(members) == {f"{name}.000.jpg", f"{name}.json"}
    assert [len(index.offsets_of(shard)) for shard in range(3)] == [4, 4, 2]
    assert index.offsets_of(1)[0] == 0


def test_the_index_knows_the_video_of_every_sample(tmp_path):
    write_named(tmp_path, [f"clip{n}" for n in range(7)]).finish()
    index = read_index(tmp_path)
    sources = [source for shard in range(3) for source in index.sources_of(shard)]
    assert sources == [f"{n // 2}.mp4" for n in range(7)]


def test_an_index_travels_to_a_worker_without_its_tables(tmp_path):
    write_named(tmp_path, [f"clip{n}" for n in range(50)], shard_clips=50).finish()
    index = read_index(tmp_path)
    fresh, found = len(pickle.dumps(index)), index.locate(11)
    assert index.sources_of(0) and len(pickle.dumps(index)) < fresh + 100
    assert pickle.loads(pickle.dumps(index)).locate(11) == found


# --- shards and markers ------------------------------------------------------------------------


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_several_writers_make_the_index_that_one_would_make(tmp_path):
    parts = [[f"{part}{n}" for n in range(4)] for part in "abc"]
    for folder, order in (tmp_path / "one", (0, 1, 2)), (tmp_path / "two", (2, 0, 1)):
        for part in order:
            writer = write_named(folder, parts[part], prefix=f"clips-{part:06d}")
            assert writer.finish(index=False) == 4
        assert not (folder / "index.json").exists()
        index = merge_index(folder)
        assert [shard.samples for shard in index.shards] == [3, 1] * 3
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert not list((tmp_path / "one").glob("*.tar.json"))


def test_a_merge_that_was_cut_off_can_be_made_again(tmp_path):
    writer = write_named(tmp_path, list("abcde"))
    writer.finish(index=False)
    names = [shard.name for shard in writer.shards]
    merge_index(tmp_path, names, keep_markers=True)
    before = files(tmp_path)
    (tmp_path / f"{names[0]}.json").unlink()
    assert merge_index(tmp_path, names).num_samples == 5
    assert files(tmp_path).keys() == {name for name in before if not name.endswith(".tar.json")}


def test_a_shard_without_its_marker_and_one_of_other_settings_are_refused(tmp_path):
    write_named(tmp_path, "ab").finish(index=False)
    with pytest.raises(ValueError, match=r"other\.tar\.json is no marker"):
        merge_index(tmp_path, ["clips-000000.tar", "other.tar"])
    write_named(tmp_path, "ab", prefix="other", fps=30.0).finish(index=False)
    with pytest.raises(ValueError, match=r"other-000000\.tar was written with other settings"):
        merge_index(tmp_path)
    assert merge_index(tmp_path, []) is None


def test_an_unfinished_shard_leaves_nothing_behind(tmp_path):
    writer = write_named(tmp_path, "abcd")
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {
        "clips-000000.tar",
        "clips-000000.tar.json",
    }
    writer.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_tokens_come_with_a_fingerprint_and_clips_without(tmp_path):
    write_named(tmp_path, "ab", kind="tokens", fingerprint="f00d").finish()
    index = read_index(tmp_path)
    assert (index.kind, index.fingerprint) == ("tokens", "f00d")
    for kind, fingerprint in ("tokens", None), ("clips", "f00d"), ("sounds", None):
        with pytest.raises(ValueError, match=f"got kind='{kind}'"):
            ShardWriter(tmp_path, 4, 8, 6, kind=kind, fingerprint=fingerprint)


def test_two_folders_are_the_same_where_their_shards_are(tmp_path):
    ids = []
    for name, last in ("one", "c"), ("two", "c"), ("three", "d"):
        write_named(tmp_path / name, ["a", "b", last]).finish()
        ids.append(read_index(tmp_path / name).identity)
    assert ids[0] == ids[1] != ids[2]


def test_a_shard_without_offsets_makes_no_index(tmp_path):
    from data.index import write_index

    with pytest.raises(ValueError, match=r"a\.tar comes without the offsets"):
        write_index(tmp_path, ShardIndex((Shard("a.tar", 2, 10, "00"),), 8, 6))


# --- what is not as written --------------------------------------------------------------------


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
    assert read_index(folder, check_shards=False).num_samples == 5
    (folder / "clips-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"clips-000001\.tar, which is not there"):
        read_index(folder)


def test_a_missing_and_a_cut_off_table_of_offsets_are_named(tmp_path):
    folder = write_clip_shards(tmp_path, num_clips=5)
    table = folder / "index.offsets.npy"
    content = table.read_bytes()
    table.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"index\.offsets\.npy cannot be read"):
        read_index(folder)
    np.save(table, np.zeros(6, np.uint32))
    with pytest.raises(ValueError, match=r"has 6 entries where index\.json asks for 7"):
        read_index(folder)
    table.unlink()
    with pytest.raises(ValueError, match=r"no index\.offsets\.npy beside"):
        read_index(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "other"}', '{"format": "lras-clips-2", "shards": [1]}']
)
def test_another_file_of_that_name_is_no_index(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match="is not an index of clip shards"):
        read_index(tmp_path)


def test_an_index_of_the_first_format_says_what_to_do(tmp_path):
    (tmp_path / "index.json").write_text('{"format": "lras-clips-1", "shards": []}')
    with pytest.raises(ValueError, match=r"'lras-clips-1' instead of .*ingest again"):
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
