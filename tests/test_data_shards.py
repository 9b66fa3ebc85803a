"""Who reads which clip, which frames are drawn from it, and what becomes of corrupt ones."""

import logging
from collections import Counter
from itertools import chain, islice

import pytest
import torch
from fake_datasets import clip_frame, write_clip_shards
from torch.utils.data import DataLoader

from data.index import read_index
from data.shards import PairConfig, PlannedShards, read_samples, train_pairs, val_pairs

PAIRS = PairConfig(min_gap=1, max_gap=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_clip_shards(tmp_path_factory.mktemp("clips"), num_clips=14)  # 4 + 4 + 4 + 2


def keys_of_epoch(folder, rank, world, epoch, seed=0):
    parts = PlannedShards(folder, read_index(folder), rank, world, seed=seed, endless=True)()
    keys = []
    for sample in read_samples(part for part in parts if part.epoch >= epoch):
        if sample["__epoch__"] > epoch:
            return keys
        keys.append(sample["__key__"])


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_epoch_deals_every_clip_to_exactly_one_consumer(shards, world, epoch):
    dealt = [keys_of_epoch(shards, rank, world, epoch) for rank in range(world)]
    assert sorted(chain(*dealt)) == [f"clip{n:03d}" for n in range(14)]


def test_shards_are_shuffled_before_they_are_dealt_out(shards):
    firsts = {keys_of_epoch(shards, 0, 4, epoch)[0] for epoch in range(12)}
    assert firsts == {"clip000", "clip004", "clip008", "clip012"}


def test_order_is_a_function_of_seed_and_epoch(shards):
    orders = [tuple(keys_of_epoch(shards, 0, 1, e, s)) for s, e in [(0, 0), (0, 1), (1, 0)]]
    assert len(set(orders)) == 3
    assert orders[0] == tuple(keys_of_epoch(shards, 0, 1, 0, 0))


def test_more_consumers_than_clips_all_get_something_in_time(tmp_path):
    folder = write_clip_shards(tmp_path, num_clips=2)
    for rank in range(5):
        stream = train_pairs(folder, PAIRS, rank=rank, world=5, shuffle=1)
        assert len(list(islice(stream, 2))) == 2


def test_a_pair_is_two_frames_of_the_clip_it_names_as_far_apart_as_it_says(shards):
    gaps, starts = Counter(), Counter()
    for sample in islice(train_pairs(shards, PAIRS, shuffle=20), 450):
        clip, gap = int(sample["key"].removeprefix("clip")), sample["gap"]
        start = int(sample["frames"][0, 1, 0, 0])
        assert torch.equal(sample["frames"][0], clip_frame(clip, start, 8))
        assert torch.equal(sample["frames"][1], clip_frame(clip, start + gap, 8))
        gaps[gap] += 1
        starts[start] += 1
    assert set(gaps) == {1, 2, 3} and min(gaps.values()) > 100
    assert set(starts) == {0, 1, 2, 3, 4}


def test_what_is_drawn_for_a_clip_does_not_depend_on_who_reads_it(shards):
    def first_epoch(world):
        drawn = {}
        for rank in range(world):
            for sample in islice(train_pairs(shards, PAIRS, rank=rank, world=world, shuffle=1), 2):
                drawn[sample["key"]] = (sample["gap"], int(sample["frames"][0, 1, 0, 0]))
        return drawn

    alone, many = first_epoch(1), first_epoch(4)
    assert len(many) == 8 and alone.items() <= many.items()


def test_training_shuffles_and_repeats_for_the_same_seed(shards):
    def keys(seed):
        return [
            sample["key"] for sample in islice(train_pairs(shards, PAIRS, seed, shuffle=20), 30)
        ]

    assert keys(0) == keys(0) != keys(1)
    assert keys(0)[:14] != sorted(keys(0)[:14])


def test_another_pass_goes_on_with_other_pairs(shards):
    stream = train_pairs(shards, PAIRS, shuffle=20)
    first, second = ([(s["key"], s["gap"]) for s in islice(stream, 14)] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_validation_counts_every_clip_once_over_ranks_and_workers(shards, workers):
    seen = []
    for rank in range(2):
        stream = val_pairs(shards, PAIRS, rank=rank, world=2)
        loader = DataLoader(stream, batch_size=None, num_workers=workers)
        seen.append([sample["key"] for sample in loader])
    assert sorted(chain(*seen)) == [f"clip{n:03d}" for n in range(14)]
    assert len(seen[0]) == len(seen[1]) == 7


def test_validation_draws_the_same_pairs_each_time(shards):
    stream = val_pairs(shards, PAIRS)
    first, second = ([(s["key"], s["gap"]) for s in stream] for _ in range(2))
    assert first == second


def test_workers_do_not_repeat_each_other(shards):
    stream = train_pairs(shards, PAIRS, shuffle=1)
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    keys = Counter(sample["key"] for sample in islice(loader, 28))
    assert set(keys) == {f"clip{n:03d}" for n in range(14)}


def test_both_frames_are_cropped_and_mirrored_alike(shards):
    pairs = PairConfig(max_gap=2, crop_px=5, flip=True)
    rows = Counter()
    for sample in islice(train_pairs(shards, pairs, shuffle=1), 200):
        assert sample["frames"].shape == (2, 3, 5, 5)
        columns = sample["frames"][:, 2]
        assert torch.equal(columns[0], columns[1])
        rows[tuple(columns[0, 0].tolist())] += 1
    windows = [tuple(range(left, left + 5)) for left in range(4)]
    assert set(rows) == {*windows, *(window[::-1] for window in windows)}


def test_validation_takes_the_central_window(shards):
    sample = next(iter(val_pairs(shards, PairConfig(crop_px=4, flip=True))))
    assert sample["frames"][0, 2, 0].tolist() == [2, 3, 4, 5]


def test_a_corrupt_sample_is_named_and_skipped(tmp_path, caplog):
    folder = write_clip_shards(tmp_path, num_clips=120, shard_clips=60, clip_frames=2, corrupt=(7,))
    with caplog.at_level(logging.WARNING):
        keys = [sample["key"] for sample in val_pairs(folder, PairConfig(max_gap=1))]
    assert len(keys) == 119 and "clip007" not in keys
    assert "clips-000000.tar, clip007: frame 0 is no readable image" in caplog.text


def test_over_one_percent_of_corrupt_samples_stop_the_run(tmp_path):
    folder = write_clip_shards(tmp_path, 100, shard_clips=50, clip_frames=2, corrupt=(7, 11))
    with pytest.raises(
        ValueError, match=r"2 of 100 samples are corrupt .last: .*clip011., over 1%"
    ):
        list(val_pairs(folder, PairConfig(max_gap=1)))


def test_few_samples_do_not_stop_the_run_unless_all_are_corrupt(tmp_path):
    some = write_clip_shards(tmp_path / "some", num_clips=5, corrupt=(1,))
    assert len(list(val_pairs(some, PAIRS))) == 4
    none = write_clip_shards(tmp_path / "none", num_clips=3, corrupt=(0, 1, 2))
    with pytest.raises(ValueError, match="3 of 3 samples are corrupt"):
        list(val_pairs(none, PAIRS))
    with pytest.raises(ValueError, match="100 of 100 samples are corrupt"):
        next(iter(train_pairs(none, PAIRS, shuffle=1)))


def test_a_shard_cut_off_behind_our_back_loses_counted_samples(tmp_path, caplog):
    folder = write_clip_shards(tmp_path, num_clips=8)
    stream = val_pairs(folder, PAIRS)
    shard = folder / "clips-000000.tar"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        keys = {sample["key"] for sample in stream}
    assert {"clip000", "clip004", "clip007"} <= keys and "clip003" not in keys
    assert "clips-000000.tar, sample 3" in caplog.text


def test_a_frame_of_another_size_is_corrupt(tmp_path, caplog):
    folder = write_clip_shards(tmp_path, num_clips=5, size=8)
    text = (folder / "index.json").read_text().replace('"size": 8', '"size": 9')
    (folder / "index.json").write_text(text)
    with pytest.raises(ValueError, match="5 of 5"):
        list(val_pairs(folder, PAIRS))
    assert "frame" in caplog.text and "8x8 px, the index says 9x9" in caplog.text


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (PairConfig(min_gap=0), "min_gap=0"),
        (PairConfig(min_gap=3, max_gap=2), "min_gap=3 max_gap=2"),
        (PairConfig(max_gap=6), "do not fit clips of 6 frames"),
        (PairConfig(crop_px=9), "crop_px=9 does not fit frames of 8 px"),
    ],
)
def test_settings_that_do_not_fit_the_clips_are_refused(shards, pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_pairs(shards, pairs)
    with pytest.raises(ValueError, match=sentence):
        val_pairs(shards, pairs)


def test_a_rank_outside_the_world_is_refused(shards):
    with pytest.raises(ValueError, match="rank=2 of world=2"):
        train_pairs(shards, PAIRS, rank=2, world=2)
