"""The DataModule: in a plain Trainer, validating on any number of ranks, mixing, with codes."""

from collections import Counter
from itertools import islice

import pytest
import torch
import torch.distributed as dist
from fake_datasets import write_clip_shards

from data.datamodule import ClipDataModule
from tests.fake_shards import FINGERPRINT, Collector, quiet_trainer, write_token_shards


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    write_clip_shards(folder / "train", num_clips=9)
    write_clip_shards(folder / "val", num_clips=5)
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    for split, clips in ("train", 20), ("val", 3):
        write_token_shards(folder / split, num_clips=clips)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_fit_and_validate_in_a_plain_trainer(root, tmp_path, workers):
    data = ClipDataModule(root, batch_size=2, num_workers=workers, crop_px=6)
    model = Collector()
    options = {"max_epochs": 2, "limit_train_batches": 4, "num_sanity_val_steps": 0}
    quiet_trainer(tmp_path, **options).fit(model, datamodule=data)
    batch = model.batches[0]
    assert set(batch) == {"frames", "gap", "gap_s", "key"}
    assert batch["frames"].shape == (2, 2, 3, 6, 6) and batch["frames"].dtype == torch.uint8
    assert batch["gap"].shape == (2,) and batch["gap"].dtype == torch.int64
    assert len(batch["key"]) == 2 and isinstance(batch["key"][0], str)
    epochs = [[batch["key"] for batch in model.batches[i : i + 4]] for i in (0, 4)]
    assert len(model.batches) == 8 and epochs[0] != epochs[1]
    assert all(len({key for keys in epoch for key in keys}) == 8 for epoch in epochs)
    assert sorted(model.val_keys) == sorted(2 * [f"clip{n:03d}" for n in range(5)])


def test_validate_alone(root, tmp_path):
    model = Collector()
    quiet_trainer(tmp_path).validate(model, datamodule=ClipDataModule(root), verbose=False)
    assert model.val_keys == [f"clip{n:03d}" for n in range(5)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_validation_counts_every_clip_once_over_ranks_and_workers(root, world, workers):
    seen, rows, pairs = Counter(), set(), {}
    for rank in range(world):
        data = ClipDataModule(root, 2, workers, rank=rank, world=world)
        loader = data.val_dataloader()
        batches = list(loader)
        assert len(batches) == len(loader)
        rows.add(tuple(len(batch["key"]) for batch in batches))
        for batch in batches:
            for key, weight, frames in zip(
                batch["key"], batch["weight"], batch["frames"], strict=True
            ):
                seen[key] += int(weight)
                assert torch.equal(pairs.setdefault(key, frames), frames)
    assert seen == {f"clip{n:03d}": 1 for n in range(5)}
    assert len(rows) == 1 and sum(rows.pop()) == -(-5 // world)
    alone = next(iter(ClipDataModule(root, 5).val_dataloader()))
    for key, frames in zip(alone["key"], alone["frames"], strict=True):
        assert torch.equal(pairs[key], frames)  # the same pairs at any world size


def test_a_root_without_shards_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*train"):
        ClipDataModule(tmp_path).train_dataloader()


def test_a_trainer_that_deals_samples_itself_leaves_ours_alone(root, tmp_path):
    """Lightning replaces the samplers of several ranks, unless they deal to ranks already."""
    data = ClipDataModule(root, batch_size=2, rank=1, world=2)
    trainer = quiet_trainer(tmp_path, max_steps=2, strategy="ddp", devices=1)
    model = Collector()
    trainer.fit(model, datamodule=data)
    dist.destroy_process_group()
    data.trainer = None
    expected = [batch["key"] for batch in islice(data.train_dataloader(), 2)]
    assert [batch["key"] for batch in model.batches] == expected


# --- mixtures ----------------------------------------------------------------------------------


def test_a_mixture_trains_by_weight_and_validates_on_all(tokens, tmp_path):
    for split, clips in ("train", 30), ("val", 2):
        write_token_shards(tmp_path / split, num_clips=clips, clip_frames=8)
    data = ClipDataModule([str(tokens), str(tmp_path)], 10, max_gap=3, weights=[0.9, 0.1])
    plan = data.plan()
    tickets = [plan.rows(step).source for step in range(1000)]
    assert Counter(s for row in tickets for s in row.tolist()) == {0: 9000, 1: 1000}
    assert sum(len(batch["key"]) for batch in data.val_dataloader()) == 5
    assert next(iter(data.train_dataloader()))["codes"].shape == (10, 2, 2, 2)


def test_folders_that_do_not_mix_are_refused(root, tokens):
    with pytest.raises(ValueError, match=r"holds tokens of 8 px .* and .* clips of 8 px"):
        ClipDataModule([str(root), str(tokens)], 2, max_gap=3).train_dataloader()
    with pytest.raises(ValueError, match=r"2 folders in data\.root and data\.weights=\[1\]"):
        ClipDataModule([str(root), str(tokens)], weights=[1])
    with pytest.raises(ValueError, match="rank=1 and world=None"):
        ClipDataModule(root, rank=1)


# --- codes -------------------------------------------------------------------------------------


def test_codes_of_another_encoder_are_refused(tokens):
    good = ClipDataModule(tokens, 2, max_gap=3, expect_fingerprint=FINGERPRINT)
    assert next(iter(good.train_dataloader()))["codes"].shape == (2, 2, 2, 2)
    for loader in ("train_dataloader", "val_dataloader"):
        bad = ClipDataModule(tokens, 2, max_gap=3, expect_fingerprint="another")
        with pytest.raises(
            ValueError, match="from the encoder f00dcafe and the model's is another"
        ):
            getattr(bad, loader)()


def test_clips_do_not_care_about_the_encoder(root):
    data = ClipDataModule(root, 2, expect_fingerprint="another")
    assert "frames" in next(iter(data.train_dataloader()))
