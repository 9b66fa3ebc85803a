"""From tickets to pairs: which frames are drawn, and what becomes of corrupt samples."""

import logging
import math
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
import torch
from fake_datasets import clip_frame, write_clip_shards

from data.index import ShardWriter
from data.pairs import PairConfig
from data.plan import Tickets
from data.remote import CacheConfig, open_folder
from data.shards import PairBatches, members
from tests.fake_shards import token_codes, write_token_shards

PAIRS = PairConfig(min_gap=1, max_gap=3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write_clip_shards(root / "train", num_clips=14)  # 4 + 4 + 4 + 2
    return root


def batches_of(root, pairs=PAIRS, seed=0, is_train=True) -> PairBatches:
    return PairBatches([open_folder(root, "train", CacheConfig())], pairs, seed, is_train)


def tickets(samples, epoch=0, weight=None) -> Tickets:
    samples = np.array(samples)
    zeros = np.zeros_like(samples)
    return Tickets(zeros, zeros + epoch, samples, None if weight is None else np.array(weight))


def test_each_ticket_gets_its_own_sample_in_order(clips):
    batch = batches_of(clips)[tickets([13, 0, 5, 5])]
    assert batch["key"] == ["clip013", "clip000", "clip005", "clip005"]
    assert set(batch) == {"frames", "gap", "gap_s", "key"}
    assert batch["frames"].shape == (4, 2, 3, 8, 8) and batch["frames"].dtype == torch.uint8
    assert (batch["gap"].dtype, batch["gap_s"].dtype) == (torch.int64, torch.float32)


def test_a_pair_is_two_frames_of_the_clip_it_names_as_far_apart_as_it_says(clips):
    gaps, starts, reader = Counter(), Counter(), batches_of(clips)
    for epoch in range(25):
        batch = reader[tickets(range(14), epoch)]
        for clip, (frames, gap) in enumerate(zip(batch["frames"], batch["gap"], strict=True)):
            start = int(frames[0, 1, 0, 0])
            assert torch.equal(frames[0], clip_frame(clip, start, 8))
            assert torch.equal(frames[1], clip_frame(clip, start + int(gap), 8))
            gaps[int(gap)] += 1
            starts[start] += 1
        assert torch.allclose(batch["gap_s"], batch["gap"] / 30)
    assert set(gaps) == {1, 2, 3} and min(gaps.values()) > 85
    assert set(starts) == {0, 1, 2, 3, 4}


def test_what_is_drawn_depends_on_seed_epoch_and_key_alone(clips):
    def drawn(order, epoch=0, seed=0):
        batch = batches_of(clips, PairConfig(max_gap=5), seed)[tickets(order, epoch)]
        starts = batch["frames"][:, 0, 1, 0, 0].tolist()
        return dict(zip(order, zip(batch["gap"].tolist(), starts, strict=True), strict=True))

    forward, backward = drawn(range(14)), drawn(range(13, -1, -1))
    assert forward == backward
    assert forward != drawn(range(14), epoch=1) and forward != drawn(range(14), seed=1)


def test_held_out_pairs_are_the_same_whatever_the_epoch(clips):
    reader = batches_of(clips, is_train=False)
    first, second = (reader[tickets(range(14), epoch, [1] * 14)] for epoch in (0, 3))
    assert torch.equal(first["frames"], second["frames"])
    assert first["weight"].tolist() == [1.0] * 14 and first["weight"].dtype == torch.float32


# --- gaps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, fps, num_frames, expected",
    [
        (0.1, 0.2, 30.0, 16, (3, 6)),
        (0.1, 0.2, 10.0, 16, (1, 2)),
        (0.1, 0.2, 60.0, 16, (6, 12)),
        (0.1, 0.2, 60.0, 8, (6, 7)),  # the clip ends first
        (0.1, 0.2, 3.0, 16, (1, 1)),  # a third of a second is the nearest there is
        (0.11, 0.12, 30.0, 16, (3, 3)),
    ],
)
def test_a_gap_in_seconds_becomes_frames_by_the_clips_own_rate(
    low, high, fps, num_frames, expected
):
    pairs = PairConfig(min_gap=low, max_gap=high, gap_unit="seconds")
    assert pairs.frames(fps, num_frames) == expected


def test_clips_of_two_rates_keep_their_gap_in_seconds(tmp_path):
    write_token_shards(tmp_path / "train", num_clips=40, clip_frames=16, fps=(10.0, 30.0))
    pairs = PairConfig(min_gap=0.2, max_gap=0.4, gap_unit="seconds")
    batch = batches_of(tmp_path, pairs)[tickets(range(40))]
    assert set(batch["gap"][::2].tolist()) == {2, 3, 4}
    assert min(batch["gap"][1::2]) >= 6 and max(batch["gap"][1::2]) <= 12
    assert batch["gap_s"].min() > 0.199 and batch["gap_s"].max() < 0.401


def test_a_clip_without_a_rate_has_no_gap_in_seconds(tmp_path, caplog):
    write_token_shards(tmp_path / "train", num_clips=4, fps=(0.0,))
    assert all(math.isnan(gap) for gap in batches_of(tmp_path)[tickets([0, 1])]["gap_s"])
    pairs = PairConfig(min_gap=0.1, max_gap=0.2, gap_unit="seconds")
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="corrupt"):
        batches_of(tmp_path, pairs)[tickets([0])]
    assert "does not say its frame rate" in caplog.text


# --- crops and codes ---------------------------------------------------------------------------


def test_both_frames_are_cropped_and_mirrored_alike(clips):
    reader, rows = batches_of(clips, PairConfig(max_gap=2, crop_px=5, flip=True)), Counter()
    for epoch in range(15):
        for frames in reader[tickets(range(14), epoch)]["frames"]:
            assert frames.shape == (2, 3, 5, 5)
            assert torch.equal(frames[0, 2], frames[1, 2])
            rows[tuple(frames[0, 2, 0].tolist())] += 1
    windows = [tuple(range(left, left + 5)) for left in range(4)]
    assert set(rows) == {*windows, *(window[::-1] for window in windows)}


def test_validation_takes_the_central_window(clips):
    reader = batches_of(clips, PairConfig(crop_px=4, flip=True), is_train=False)
    assert reader[tickets([3], weight=[1])]["frames"][0, 0, 2, 0].tolist() == [2, 3, 4, 5]


def test_a_tokenized_clip_gives_the_codes_of_two_frames(tmp_path):
    write_token_shards(tmp_path / "train", num_clips=9, clip_frames=5, side=3)
    batch = batches_of(tmp_path)[tickets(range(9))]
    assert set(batch) == {"codes", "gap", "gap_s", "key"}
    assert batch["codes"].shape == (9, 2, 3, 3) and batch["codes"].dtype == torch.int64
    for clip, (codes, gap) in enumerate(zip(batch["codes"], batch["gap"], strict=True)):
        start = int(codes[0, 0, 0]) - clip * 100
        whole = torch.from_numpy(token_codes(clip, 5, 3, 3).astype(np.int64))
        assert torch.equal(codes, whole[[start, start + int(gap)]])
    assert batch["codes"].max() > 2**15  # uint16, not int16


# --- corrupt samples ---------------------------------------------------------------------------


def test_a_corrupt_sample_is_named_and_another_one_stands_in(tmp_path, caplog):
    write_clip_shards(
        tmp_path / "train", num_clips=120, shard_clips=60, clip_frames=2, corrupt=(7,)
    )
    reader = batches_of(tmp_path, PairConfig(max_gap=1))
    with caplog.at_level(logging.WARNING):
        keys = reader[tickets(range(120))]["key"]
    assert keys[:7] + keys[8:] == [f"clip{n:03d}" for n in range(120) if n != 7]
    assert keys[7] != "clip007"
    assert "clips-000000.tar, sample 7, clip007: frame 0 is no readable image" in caplog.text
    again = batches_of(tmp_path, PairConfig(max_gap=1))[tickets([7])]
    assert again["key"] == [keys[7]]  # whoever reads it
    assert {batches_of(tmp_path, PairConfig(max_gap=1))[tickets([7], e)]["key"][0]
            for e in range(6)} != {keys[7]}  # fmt: skip


def test_what_stands_in_at_validation_does_not_count(tmp_path):
    write_clip_shards(tmp_path / "train", num_clips=5, corrupt=(1,))
    batch = batches_of(tmp_path, is_train=False)[tickets(range(5), weight=[1, 1, 1, 1, 0])]
    assert batch["weight"].tolist() == [1, 0, 1, 1, 0]


def test_over_one_percent_of_corrupt_samples_stop_the_run(tmp_path):
    write_clip_shards(tmp_path / "train", 100, shard_clips=50, clip_frames=2, corrupt=(7, 11))
    reader = batches_of(tmp_path, PairConfig(max_gap=1))
    with pytest.raises(ValueError, match=r"2 of 100 samples are corrupt .*over 1%; ingest"):
        reader[tickets(range(100))]


def test_few_samples_do_not_stop_the_run_unless_all_are_corrupt(tmp_path):
    write_clip_shards(tmp_path / "some" / "train", num_clips=5, corrupt=(1,))
    assert len(batches_of(tmp_path / "some")[tickets(range(5))]["key"]) == 5
    write_clip_shards(tmp_path / "none" / "train", num_clips=3, corrupt=(0, 1, 2))
    with pytest.raises(ValueError, match="20 of 20 samples are corrupt"):
        batches_of(tmp_path / "none")[tickets([0])]


def test_a_shard_cut_off_behind_our_back_loses_counted_samples(tmp_path, caplog):
    write_clip_shards(tmp_path / "train", num_clips=8)
    reader = batches_of(tmp_path, is_train=False)
    shard = tmp_path / "train" / "clips-000000.tar"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        batch = reader[tickets(range(8), weight=[1] * 8)]
    assert batch["weight"].tolist()[:2] == [1, 1] and batch["weight"].tolist()[3:] == [
        0,
        1,
        1,
        1,
        1,
    ]
    assert "clips-000000.tar, sample 3, unnamed: the shard ends after" in caplog.text


def test_names_too_long_for_one_header_are_read_too(tmp_path):
    keys = ["short", "long" * 40]
    writer = ShardWriter(tmp_path / "train", 4, 8, 6)
    for key in keys:
        writer.write({"__key__": key, "json": b"{}", "000.jpg": key.encode() * 300})
    writer.finish()
    folder = open_folder(tmp_path, "train", CacheConfig())
    for number, key in enumerate(keys):
        assert members(folder.read(number)) == (key, {"json": b"{}", "000.jpg": key.encode() * 300})


@pytest.mark.parametrize(
    "change", [lambda c: c.astype(np.int32), np.asfortranarray, lambda c: c[0]]
)
def test_codes_that_are_not_as_written_are_corrupt(change, tmp_path, caplog):
    file = BytesIO()
    np.save(file, change(token_codes(0, 4, 2, 3)))
    writer = ShardWriter(tmp_path / "train", 4, 8, 4, kind="tokens", fingerprint="any")
    about = b'{"source": "fake", "fps": 30.0, "num_frames": 4}'
    writer.write({"__key__": "one", "json": about, "codes.npy": file.getvalue()})
    writer.finish()
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="20 of 20 samples"):
        batches_of(tmp_path)[tickets([0])]
    assert "its codes are" in caplog.text


def test_bytes_of_two_samples_are_not_one(clips):
    folder = open_folder(clips, "train", CacheConfig())
    with pytest.raises(ValueError, match="hold 2 samples"):
        members(folder.read(0) + folder.read(1))


def test_a_frame_of_another_size_is_corrupt(tmp_path, caplog):
    folder = write_clip_shards(tmp_path / "train", num_clips=5, size=8)
    text = (folder / "index.json").read_text().replace('"size": 8', '"size": 9')
    (folder / "index.json").write_text(text)
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="20 of 20"):
        batches_of(tmp_path)[tickets([0])]
    assert "frame" in caplog.text and "8x8 px, the index says 9x9" in caplog.text


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (PairConfig(min_gap=0), "min_gap=0"),
        (PairConfig(min_gap=3, max_gap=2), "min_gap=3 max_gap=2"),
        (PairConfig(max_gap=6), "do not fit clips of 6 frames"),
        (PairConfig(min_gap=1.5), r"min_gap=1\.5 .* gap_unit=seconds"),
        (PairConfig(min_gap=0, gap_unit="seconds"), "0 < min_gap <= max_gap"),
        (PairConfig(gap_unit="hours"), "gap_unit='hours'"),
        (PairConfig(crop_px=9), "crop_px=9 does not fit frames of 8 px"),
    ],
)
def test_settings_that_do_not_fit_the_clips_are_refused(clips, pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        batches_of(clips, pairs)


@pytest.mark.parametrize("options", [{"crop_px": 4}, {"flip": True}])
def test_codes_are_neither_cropped_nor_mirrored(tmp_path, options):
    write_token_shards(tmp_path / "train", num_clips=2)
    with pytest.raises(ValueError, match="for codes; leave them null and false"):
        batches_of(tmp_path, PairConfig(max_gap=2, **options))
