"""Exact and elastic resume: the same global batches, whoever draws them and wherever they begin."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from fake_datasets import write_clip_shards
from lightning import Callback

from data.datamodule import ClipDataModule
from tests.fake_shards import Collector, drawn, quiet_trainer, write_token_shards

STREAMS, GLOBAL_BATCH, CLIPS = 12, 24, 151  # 6 steps an epoch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    write_clip_shards(folder / "train", num_clips=CLIPS, shard_clips=20, clip_frames=4)
    write_clip_shards(folder / "val", num_clips=5)
    return folder


@pytest.fixture(scope="module")
def mixed_roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    for name, clips in ("a", 90), ("b", 31):
        write_token_shards(folder / name / "train", num_clips=clips)
    return [str(folder / "a"), str(folder / "b")]


def loader_of(root, rank, world, workers, state=None, **options):
    data = ClipDataModule(
        root, GLOBAL_BATCH // world, workers, max_gap=3, seed=5, rank=rank, world=world,
        **({"streams": STREAMS} | options),
    )  # fmt: skip
    if state is not None:
        data.load_state_dict(state)
    return data, iter(data.train_dataloader())


def global_batches(root, world, workers, steps, state=None, **options) -> list[list[tuple]]:
    loaders = [loader_of(root, r, world, workers, state, **options)[1] for r in range(world)]
    return [[row for each in loaders for row in drawn(next(each))] for _ in range(steps)]


def state_after(root, steps, **options) -> dict:
    data = loader_of(root, 0, 1, 0, **options)[0]
    return data.state_dict() | {"steps": steps}


@pytest.fixture(scope="module")
def undisturbed(root):
    return global_batches(root, world=1, workers=0, steps=16)


def test_an_undisturbed_run_shows_no_clip_twice_in_an_epoch(undisturbed):
    for epoch in range(2):
        steps = undisturbed[epoch * 6 : (epoch + 1) * 6]
        keys = Counter(row[0] for batch in steps for row in batch)
        assert len(keys) == 6 * GLOBAL_BATCH and set(keys.values()) == {1}
    assert undisturbed[0] != undisturbed[6]


@pytest.mark.parametrize("world, workers", [(1, 0), (2, 2), (4, 1), (1, 3)])
def test_a_resumed_run_draws_the_same_global_batches(root, undisturbed, world, workers):
    state = state_after(root, 8)  # mid epoch 1
    assert global_batches(root, world, workers, 5, state) == undisturbed[8:13]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(root, undisturbed, context):
    state = state_after(root, 8)
    found = global_batches(root, 2, 2, 3, state, multiprocessing_context=context)
    assert found == undisturbed[8:11]


def test_a_mixture_of_codes_resumes_the_same_way(mixed_roots):
    options = {"weights": [0.4, 0.6], "window": 8}
    whole = global_batches(mixed_roots, 1, 0, 12, **options)
    state = state_after(mixed_roots, 7, **options)
    assert global_batches(mixed_roots, 3, 1, 5, state, **options) == whole[7:]
    keys = Counter(row[0] for batch in whole for row in batch)
    assert max(keys.values()) > 2  # the small folder has come round


def test_a_run_of_another_number_of_ranks_keeps_its_streams(root):
    state = loader_of(root, 0, 1, 0, streams=24)[0].state_dict()
    data, _ = loader_of(root, 0, 2, 0, state, streams=None)
    assert data.plan().streams == 24
    with pytest.raises(ValueError, match=r"reads 12 streams, .* 8 ranks; .* that divides 12, or"):
        loader_of(root, 0, 8, 0, state_after(root, 3), streams=None)[0].plan()
    data, _ = loader_of(root, 0, 8, 0, state_after(root, 3), streams=None, accept_other_plan=True)
    assert data.plan().streams == 24


# --- what a checkpoint refuses -----------------------------------------------------------------


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"batch_size": 12}, r"global_batch 24 then and 12 now.*data\.batch_size=24, or pass"),
        ({"streams": 6}, "streams 12 then and 6 now"),
        ({"seed": 1}, "seed 5 then and 1 now"),
        ({"window": 10}, "window None then and 10 now"),
    ],
)
def test_another_plan_is_refused_in_one_sentence(root, options, sentence):
    given = {"batch_size": GLOBAL_BATCH, "streams": STREAMS, "max_gap": 3, "seed": 5} | options
    data = ClipDataModule(root, **given)
    data.load_state_dict(state_after(root, 3))
    with pytest.raises(ValueError, match=sentence):
        data.train_dataloader()
    accepting = ClipDataModule(root, **given, accept_other_plan=True)
    accepting.load_state_dict(state_after(root, 3))
    assert next(iter(accepting.train_dataloader()))["gap"].shape == (given["batch_size"],)


def test_other_data_are_refused_but_the_same_elsewhere_are_not(root, tmp_path):
    write_clip_shards(tmp_path / "same" / "train", CLIPS, shard_clips=20, clip_frames=4)
    write_clip_shards(tmp_path / "other" / "train", CLIPS - 1, shard_clips=20, clip_frames=4)
    state = state_after(root, 3)
    loader_of(tmp_path / "same", 0, 1, 0, state)
    with pytest.raises(ValueError, match=r"another plan \(data \['"):
        loader_of(tmp_path / "other", 0, 1, 0, state)


def test_another_plan_does_not_keep_one_from_validating(root):
    data = ClipDataModule(root, batch_size=2)
    data.load_state_dict(state_after(root, 3))
    assert sum(len(batch["key"]) for batch in data.val_dataloader()) == 5


# --- in a trainer ------------------------------------------------------------------------------


class StopAfter(Callback):
    """Ends the training, as a signal would, once so many steps are done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop = trainer.global_step >= self.step


class SaveAt(Callback):
    """Saves a checkpoint in the middle of an epoch of the trainer and goes on."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(
    root, folder, max_steps, ckpt=None, stop=None, batch=12, workers=0, rank=0, world=1, **options
):
    data = ClipDataModule(root, batch, workers, max_gap=3, seed=5, rank=rank, world=world)
    model = Collector()
    if stop:
        options["callbacks"] = [StopAfter(stop)]
    trainer = quiet_trainer(folder, max_steps=max_steps, **options)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt)
    return [drawn(batch) for batch in model.batches], trainer


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trainer_stopped_mid_epoch_goes_on_with_the_very_next_batch(root, tmp_path, workers):
    whole, _ = fit(root, tmp_path, 16)
    before, trainer = fit(root, tmp_path, 16, stop=5, workers=workers)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    after, _ = fit(root, tmp_path, 16, tmp_path / "half.ckpt", workers=workers)
    assert (len(before), len(after)) == (5, 11) and before + after == whole


def test_a_checkpoint_of_the_trainer_counts_completed_steps_not_fetched_batches(root, tmp_path):
    _, trainer = fit(root, tmp_path, 16, stop=5, workers=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert saved["ClipDataModule"]["steps"] == 5


def test_epochs_of_the_trainer_go_on_where_the_last_one_ended(root, tmp_path, recwarn):
    whole, _ = fit(root, tmp_path, 12)
    options = {"limit_train_batches": 4, "max_epochs": 3}
    pieces, _ = fit(root, tmp_path, -1, callbacks=[SaveAt(6, tmp_path / "half.ckpt")], **options)
    assert pieces == whole
    after, _ = fit(root, tmp_path, -1, tmp_path / "half.ckpt", **options)
    assert after == whole[6:]
    assert not [w for w in recwarn if "resumable" in str(w.message)]


def test_accumulated_batches_make_the_step_of_one_large_batch(root, tmp_path):
    whole, _ = fit(root, tmp_path, 6)
    parts, trainer = fit(root, tmp_path, 6, stop=4, batch=4, accumulate_grad_batches=3)
    assert [[row for part in parts[i : i + 3] for row in part] for i in range(0, 12, 3)] == whole[
        :4
    ]
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    after, _ = fit(root, tmp_path, 6, tmp_path / "half.ckpt")
    assert after == whole[4:]


def test_ranks_that_accumulate_share_the_rows_of_a_step(root, tmp_path):
    whole, _ = fit(root, tmp_path, 2)
    ranks = [
        fit(root, tmp_path, 2, batch=2, accumulate_grad_batches=3, rank=rank, world=2)[0]
        for rank in (0, 1)
    ]
    steps = [[row for part in ranks for each in part[i : i + 3] for row in each] for i in (0, 3)]
    assert steps == whole


def test_a_plain_loop_without_a_trainer_begins_at_its_state(root):
    data = ClipDataModule(root, GLOBAL_BATCH, streams=STREAMS, max_gap=3, seed=5)
    whole = [drawn(batch) for batch in islice(data.train_dataloader(), 5)]
    data.load_state_dict(data.state_dict() | {"steps": 3})
    assert [drawn(batch) for batch in islice(data.train_dataloader(), 2)] == whole[3:]
