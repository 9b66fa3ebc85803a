"""Published sets of tracks by name: read in their true layouts, asked for where missing."""

import pickle

import pytest
import torch
from fake_datasets import fake_track, write_tracks
from fake_tracks import KINETICS_SHARDS, WRITERS, write_kinetics, write_robotap

from data.readers import track_sets
from data.readers.tapvid import TrackFile, TrackSource
from data.readers.track_sets import RECORDS, TrackShards, files_sha256, open_tracks
from tracing.baselines import ZeroMotion
from tracing.benchmarks.tapvid import TapVid

NUMBERS = {
    "davis": 2,
    "rgb_stacking": 2,
    "kinetics": 20,
    "kinetics_sampled": 1,
    "robotap": 5,
    "kubric": 2,
}


def one_sentence(error):
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


def test_every_known_set_has_a_fake():
    assert set(WRITERS) == set(NUMBERS) == set(RECORDS)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_set_is_read_and_scored_in_its_true_layout(name, tmp_path):
    path = WRITERS[name](tmp_path / "set")
    source = open_tracks(name, path)
    assert isinstance(source, TrackSource)
    assert len(source) == len(set(source.names)) == NUMBERS[name]
    for index, track in enumerate(source):
        points, visible = source.tracks(index, (24, 32))
        assert track.name == source.names[index] and "/" not in track.name
        assert torch.equal(points, track.points) and torch.equal(visible, track.visible)
        assert track.frames.shape[1:] == (3, 24, 32)
        assert (source.queries(index, (24, 32)) is None) == (name != "kubric")
    task = TapVid(path, seed=0, dataset=name, num_videos=2)
    (row,) = task.score([ZeroMotion()], task.parts, 0, patch_px=4)
    assert row.epe > 0 and task.about()["dataset"] == name
    assert task.about()["page"] == RECORDS[name].page


@pytest.mark.parametrize("name", sorted({"davis", "rgb_stacking", "kinetics_sampled"}))
def test_a_set_of_one_file_is_found_by_its_folder_too(name, tmp_path):
    file = WRITERS[name](tmp_path / RECORDS[name].files[0].removesuffix(".pkl"))
    for path in (file, file.parent, file.parent.parent):
        assert open_tracks(name, path).path == file


@pytest.mark.parametrize("name", NUMBERS)
def test_a_missing_set_is_a_sentence_that_says_how_to_get_it(name, tmp_path):
    record = RECORDS[name]
    for path, said in ((None, "no task.path is given"), (tmp_path / "gone", "gone is not there")):
        with pytest.raises(ValueError, match=f"task.dataset={name}: .*{said}") as error:
            open_tracks(name, path)
        text = one_sentence(error)
        for part in (record.get, record.page, record.size, record.licence, record.path):
            assert part in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"lacks {record.files[0]}"):
        open_tracks(name, tmp_path / "empty")


def test_missing_shards_are_named(tmp_path):
    folder = write_kinetics(tmp_path / "k")
    for name in ("0003_of_0010.pkl", "0007_of_0010.pkl"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"lacks 0003_of_0010\.pkl, 0007_of_0010\.pkl") as error:
        open_tracks("kinetics", folder)
    one_sentence(error)
    folder = write_robotap(tmp_path / "r")
    (folder / "robotap_split4.pkl").unlink()
    with pytest.raises(ValueError, match=r"lacks robotap_split4\.pkl"):
        open_tracks("robotap", folder)


def test_a_shard_too_many_is_named(tmp_path):
    folder = write_robotap(tmp_path / "r")
    write_tracks(folder / "robotap_split5.pkl", {"x": fake_track()})
    (folder / "notes.pkl").write_bytes(b"of no concern")
    with pytest.raises(ValueError, match=r"robotap_split5\.pkl besides the 5 files"):
        open_tracks("robotap", folder)


def test_one_video_in_two_shards_is_refused(tmp_path):
    folder = write_robotap(tmp_path / "r")
    write_tracks(folder / "robotap_split2.pkl", {"arm/1": fake_track()})
    with pytest.raises(ValueError, match="holds the video arm_1, as an earlier file does"):
        open_tracks("robotap", folder)


def test_lists_are_numbered_through_and_videos_come_from_their_own_shard(tmp_path):
    shards = open_tracks("kinetics", write_kinetics(tmp_path / "k"))
    assert shards.names[:3] == ("video_000", "video_001", "video_002")
    assert shards.names[-1] == "video_019"
    for index in (19, 0, 7):
        alone = TrackFile(tmp_path / "k" / KINETICS_SHARDS[index // 2])[index % 2]
        assert torch.equal(shards[index].frames, alone.frames)
        assert torch.equal(shards[index].points, alone.points)
        assert shards[index].name == f"video_{index:03d}"


def test_one_shard_at_a_time_is_in_memory(tmp_path, monkeypatch):
    folder, alive, peak, opened = write_kinetics(tmp_path / "k"), set(), [], []

    class Counted(TrackFile):
        def __init__(self, path, first_number=0):
            super().__init__(path, first_number)
            alive.add(id(self))
            opened.append(path.name)
            peak.append(len(alive))

        def __del__(self):
            alive.discard(id(self))

    monkeypatch.setattr(track_sets, "TrackFile", Counted)
    shards = TrackShards([folder / name for name in KINETICS_SHARDS])
    assert not alive  # only the tracks are kept
    for index in range(20):
        assert shards[index].name == f"video_{index:03d}"
    assert max(peak) == 1
    assert opened == [*KINETICS_SHARDS, *KINETICS_SHARDS]  # each is read twice, not once a video


def test_a_shard_that_is_cut_off_is_named(tmp_path):
    folder = write_kinetics(tmp_path / "k")
    shard = folder / KINETICS_SHARDS[4]
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"0004_of_0010\.pkl is no readable pickle") as error:
        open_tracks("kinetics", folder)
    one_sentence(error)


def test_two_names_that_differ_by_a_slash_only_are_refused(tmp_path):
    path = write_tracks(tmp_path / "a.pkl", {"a/b": fake_track(), "a_b": fake_track()})
    with pytest.raises(ValueError, match="two videos of one name"):
        TrackFile(path)


def test_a_set_that_is_not_as_published_says_so(tmp_path):
    about = TapVid(WRITERS["davis"](tmp_path / "d"), seed=0, dataset="davis").about()
    assert about["part"] == "the set as found has 2 videos, published are 30"


def test_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="file, davis, rgb_stacking, kinetics, kinetics_sampled"):
        open_tracks("daviss", tmp_path)
    with pytest.raises(ValueError, match=r"task\.path=FILE\.pkl, or task\.dataset=\{davis, ") as e:
        open_tracks("file", None)
    one_sentence(e)


def test_the_hash_is_of_names_order_and_contents(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(pickle.dumps(1))
    b.write_bytes(pickle.dumps(2))
    whole = files_sha256([a, b])
    assert whole == files_sha256([a, b]) != files_sha256([b, a])
    b.write_bytes(pickle.dumps(3))
    assert files_sha256([a, b]) != whole
    path = WRITERS["davis"](tmp_path / "d")
    assert TapVid(path, seed=0).about()["data_sha256"] == files_sha256([path])
