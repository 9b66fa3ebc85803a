"""Verify finds what is wrong with a folder of shards, and nothing where nothing is."""

import io
import json
import tarfile

import cv2
import numpy as np
import pytest
from fake_datasets import noise_video, write_clip_shards, write_video
from test_data_ingest import config, digests_of, run

from data.index import ShardWriter, read_index
from data.ingest import ingest
from data.verify import verify


@pytest.fixture
def out(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mkv", noise_video(22, 16, 16, seed=number))
    ingest(config(tmp_path / "videos", tmp_path / "out", shard_clips=3))
    return tmp_path / "out"


def problem_of(folder):
    report = verify(folder)
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def test_what_was_just_written_has_no_problem_and_is_left_alone(out, capsys):
    before = digests_of(out)
    status, said = run(capsys, "verify", out)
    assert status == 0 and "4 shards with 10 samples read, 0 problems" in said
    assert digests_of(out) == before


def test_a_split_alone_can_be_verified(out):
    assert verify(out / "val").samples == 2


def test_one_flipped_bit_is_found(out, capsys):
    shard = out / "train" / "clips-000000-000001.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert any("clips-000000-000001.tar: has another sha256" in p for p in verify(out).problems)
    status, said = run(capsys, "verify", out)
    assert status == 1 and "another sha256" in said


def test_a_shard_cut_off_or_gone_is_found(out):
    shard = out / "train" / "clips-000000-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    assert f"has {len(content) - 512} bytes where the index says {len(content)}" in problem_of(out)
    shard.unlink()
    assert "cannot be read (No such file or directory)" in problem_of(out)


def test_a_frame_that_does_not_decode_is_found(tmp_path):
    write_clip_shards(tmp_path / "train", num_clips=4, clip_frames=2, corrupt=(1,))
    problems = verify(tmp_path).problems
    assert [f"clip001 frame {t} is no readable image" in problems[t] for t in (0, 1)] == [True] * 2
    assert len(problems) == 2


def sample(key, source="a", start=0, size=8, frames=2):
    picture = cv2.imencode(".png", np.zeros((size, size, 3), np.uint8))[1].tobytes()
    about = {"source": source, "start_frame": start, "num_frames": frames}
    files = {f"{t:03d}.png": picture for t in range(frames)}
    return {"__key__": key, "json": json.dumps(about).encode(), **files}


def write(folder, *samples):
    writer = ShardWriter(folder, 10, 8, 2)
    for each in samples:
        writer.write(each)
    writer.finish()


def test_a_key_that_is_there_twice_is_found(tmp_path):
    write(tmp_path / "train", sample("a"), sample("b", start=2))
    write(tmp_path / "val", sample("b", start=4))
    assert "b is there twice" in problem_of(tmp_path)


def test_a_frame_in_both_splits_is_found(tmp_path):
    write(tmp_path / "train", sample("a"), sample("b", start=2))
    write(tmp_path / "val", sample("c", start=3), sample("d", source="b", start=2))
    assert "frame 3 of a is in training and in validation" in problem_of(tmp_path)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"size": 9}, "a frame 0 is 9x9 px, not 8x8"),
        ({"frames": 1}, "a has 1 frames where the index says 2"),
    ],
)
def test_clips_of_another_size_or_length_are_found(tmp_path, broken, words):
    write(tmp_path / "train", sample("a", **broken))
    assert any(words in problem for problem in verify(tmp_path).problems)


def test_an_index_that_points_into_the_middle_of_a_sample_is_found(out):
    path = out / "train" / "index.offsets.npy"
    blocks = np.load(path)
    blocks[1] += 2
    np.save(path, blocks)
    assert verify(out).problems


def test_an_index_of_other_videos_is_found(out):
    path = out / "train" / "index.sources.json"
    path.write_text(path.read_text().replace("1.mkv", "2.mkv"))
    assert any("is from 1.mkv where the index says 2.mkv" in p for p in verify(out).problems)


def test_codes_of_another_type_or_encoder_are_found(tmp_path):
    def tokens(key, codes, fingerprint="f"):
        file = io.BytesIO()
        np.save(file, codes)
        about = {"source": key, "num_frames": 2, "fingerprint": fingerprint}
        return {"__key__": key, "json": json.dumps(about).encode(), "codes.npy": file.getvalue()}

    good = np.zeros((2, 4, 4), np.uint16)
    writer = ShardWriter(
        tmp_path / "train", 10, 8, 2, {"num_codes": 9}, kind="tokens", fingerprint="f"
    )
    writer.write(tokens("a", good))
    writer.write(tokens("b", good.astype(np.int64)))
    writer.write(tokens("c", good + np.uint16(9)))
    writer.write(tokens("d", good, fingerprint="g"))
    writer.finish()
    problems = verify(tmp_path).problems
    for number, words in enumerate(
        ["b has codes of int64", "c has code 9, expected less than 9", "d is of encoder g"]
    ):
        assert words in problems[number]
    assert len(problems) == 3


def test_a_folder_without_an_index_costs_one_sentence(tmp_path, capsys):
    assert run(capsys, "verify", tmp_path)[0] == 1
    status, said = run(capsys, "verify")
    assert status == 1 and "type: python -m data.ingest verify OUT" in said


def test_shards_are_plain_tar_files(out):
    shard = read_index(out / "train").shards[0]
    with tarfile.open(out / "train" / shard.name) as file:
        assert len(file.getnames()) == shard.samples * 5
