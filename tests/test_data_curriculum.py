"""The curriculum: stages in turn, batches that depend on (seed, step, stream) alone."""

from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from data.blend import ScenesAndClips
from data.curriculum import (
    CurriculumScenes,
    HeldOutScenes,
    Stage,
    SyntheticDataModule,
    as_batch,
)
from data.datamodule import ClipDataModule
from data.synthetic import SceneConfig, SceneSampler
from data.textures import texture_bank
from tests.fake_datasets import write_clip_shards

STAGES = [
    Stage(steps=2, batch=3, scene=SceneConfig(size=12)),
    Stage(steps=3, batch=2, frame1_share=0.5, scene=SceneConfig(size=16)),
]


def scenes(**changes) -> list[dict]:
    return list(CurriculumScenes(STAGES, **({"textures": 4} | changes)))


def test_stages_come_in_turn_with_their_own_size_batch_and_share():
    shapes = [tuple(batch["frames"].shape) for batch in scenes()]
    assert shapes == 2 * [(3, 2, 3, 12, 12)] + 3 * [(2, 2, 3, 16, 16)]
    assert [batch["frame1_share"] for batch in scenes()] == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert scenes()[0]["frames"].dtype == torch.uint8


def test_a_run_that_starts_later_sees_the_same_batches():
    whole, rest = scenes(), scenes(start=3)
    assert len(rest) == 2 and rest[0]["key"][0] == "step3/0"
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(whole[3:], rest, strict=True))


def test_the_seed_changes_the_batches():
    assert not torch.equal(scenes()[0]["frames"], scenes(seed=1)[0]["frames"])


# --- several processes -------------------------------------------------------------------------

EVEN = [
    Stage(steps=2, batch=4, scene=SceneConfig(size=12)),
    Stage(steps=1, batch=8, scene=SceneConfig(size=16)),
]


def even(**changes) -> list[dict]:
    return list(CurriculumScenes(EVEN, **({"textures": 4} | changes)))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_what_one_process_with_as_many_streams_sees(world):
    whole = even(streams=4)
    ranks = [even(rank=rank, world=world, streams=4) for rank in range(world)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch["frames"], torch.cat([part["frames"] for part in parts]))
        assert batch["key"] == [key for part in parts for key in part["key"]]


def test_streams_default_to_one_per_process_and_are_all_different():
    (one, two), alone = (even(rank=rank, world=2) for rank in (0, 1)), even(streams=2)
    assert torch.equal(alone[0]["frames"], torch.cat([one[0]["frames"], two[0]["frames"]]))
    assert not torch.equal(one[0]["frames"], two[0]["frames"])


def test_one_stream_is_one_draw_of_the_whole_batch_from_its_own_seed():
    bank = texture_bank("train", 5, 4)
    for step, batch in enumerate(even(seed=5)):
        stage = EVEN[step // 2]
        generator = torch.Generator().manual_seed(hash((1, 5, step, 0)) % 2**63)
        drawn = SceneSampler(stage.scene, bank).sample(stage.batch, generator)
        frames = as_batch(drawn.frame0, drawn.frame1, "any")["frames"]
        assert torch.equal(batch["frames"], frames)


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"streams": 3}, r"stages\.0\.batch=4 .* 3 equal streams; set it to 6"),
        ({"world": 8}, r"stages\.0\.batch=4 .* 8 equal streams; set it to 8"),
        ({"streams": 2, "world": 4}, r"data\.streams=2 do not divide among 4 processes"),
        ({"streams": 0}, r"data\.streams=0"),
    ],
)
def test_streams_that_do_not_fit_are_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        CurriculumScenes(EVEN, **given)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_each_held_out_pair_counts_once_at_any_number_of_processes(world):
    def held_out(**ranks) -> list[dict]:
        return list(HeldOutScenes(SceneConfig(size=12), num_batches=2, batch=6, seed=0, **ranks))

    parts = [held_out(rank=rank, world=world) for rank in range(world)]
    assert len({len(part[0]["key"]) for part in parts}) == 1  # lockstep
    for whole, *rows in zip(held_out(), *parts, strict=True):
        frames = torch.cat([row["frames"] for row in rows])
        weight = torch.cat([row.get("weight", torch.ones(len(row["key"]))) for row in rows])
        keys = [key for row in rows for key in row["key"]]
        assert torch.equal(frames[weight > 0], whole["frames"])
        assert [key for key, w in zip(keys, weight, strict=True) if w] == whole["key"]


def after_resuming(
    state: dict, streams: int | None, world: int, parts: int = 1
) -> SyntheticDataModule:
    data = SyntheticDataModule(EVEN, streams=streams)
    data.trainer = SimpleNamespace(world_size=world, accumulate_grad_batches=parts)
    data.load_state_dict(state)
    return data


def test_a_resumed_run_keeps_the_streams_it_had():
    data = after_resuming({"batches": 2, "streams": 4}, streams=None, world=2)
    assert (data.start, data.streams) == (2, 4)
    assert after_resuming({"batches": 2}, streams=None, world=1).streams == 1  # before streams


@pytest.mark.parametrize("streams, world", [(None, 2), (2, 1), (1, 2)])
def test_a_resumed_run_refuses_streams_it_did_not_have(streams, world):
    with pytest.raises(ValueError, match="drew its batches in 1 streams"):
        after_resuming({"batches": 2, "streams": 1}, streams, world)


@pytest.mark.parametrize("world, parts", [(1, 4), (2, 2), (4, 1)])
def test_a_step_holds_the_same_pairs_in_however_many_batches_they_come(world, parts):
    stages = [Stage(steps=2, batch=8, scene=STAGES[0].scene)]
    (whole, then) = CurriculumScenes(stages, textures=4, streams=4)
    assert whole["key"] == [f"step0/{row}" for row in range(8)]
    ranks = [
        list(CurriculumScenes(stages, textures=4, rank=r, world=world, streams=4, parts=parts))
        for r in range(world)
    ]
    for step, expected in enumerate((whole, then)):
        batches = [b for own in ranks for b in own[step * parts : (step + 1) * parts]]
        assert [key for b in batches for key in b["key"]] == expected["key"]
        assert torch.equal(torch.cat([b["frames"] for b in batches]), expected["frames"])


def test_a_resumed_run_may_trade_processes_for_accumulated_batches():
    data = after_resuming({"batches": 2, "streams": 4}, streams=None, world=2, parts=2)
    assert (data.start, data.streams) == (2, 4)
    with pytest.raises(ValueError, match="2 processes of 4 accumulated batches"):
        after_resuming({"batches": 2, "streams": 4}, streams=None, world=2, parts=4)


def test_streams_that_do_not_divide_among_parts_are_refused():
    with pytest.raises(ValueError, match="that accumulate 2 batches each"):
        CurriculumScenes(STAGES, textures=4, streams=1, parts=2)


# --- one process -------------------------------------------------------------------------------


def test_a_mixed_curriculum_goes_round_the_stages():
    assert [len(batch["frames"]) for batch in scenes(mixed=True)] == [3, 2, 3, 2, 3]


@pytest.mark.slow
def test_workers_take_turns_and_keep_the_order():
    data = SyntheticDataModule(STAGES, num_workers=2, textures=4)
    alone = SyntheticDataModule(STAGES, num_workers=0, textures=4)
    for a, b in zip(data.train_dataloader(), alone.train_dataloader(), strict=True):
        assert torch.equal(a["frames"], b["frames"])


def test_held_out_scenes_are_the_same_every_time():
    held_out = HeldOutScenes(SceneConfig(size=12), num_batches=2, batch=2, seed=0)
    assert all(
        torch.equal(a["frames"], b["frames"]) for a, b in zip(held_out, held_out, strict=True)
    )


def test_an_empty_curriculum_is_refused_and_steps_can_be_scaled():
    with pytest.raises(ValueError, match=r"data\.stages is empty"):
        SyntheticDataModule([])
    assert SyntheticDataModule(STAGES, steps_scale=0.1).total_steps == 2


class KeepsKeys(L.LightningModule):
    """Trains one number and remembers which batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch: dict, batch_index: int) -> torch.Tensor:
        self.seen.append(batch["key"][0])
        return self.weight.square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_plain_trainer_resumed_from_a_checkpoint_sees_every_batch_once(stop, tmp_path):
    def fit(max_steps: int, ckpt: Path | None = None) -> tuple[list[str], L.Trainer]:
        module = KeepsKeys()
        trainer = L.Trainer(
            accelerator="cpu", max_steps=max_steps, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, SyntheticDataModule(STAGES, textures=4), ckpt_path=ckpt)
        return module.seen, trainer

    before, trainer = fit(stop)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    after, _ = fit(5, tmp_path / "half.ckpt")
    assert before + after == [f"step{step}/0" for step in range(5)]


@pytest.mark.parametrize("there", [True, False])
def test_batches_wait_in_pinned_memory_where_there_is_a_gpu(there, tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_clip_shards(tmp_path / split, num_clips=4, size=16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    stage = Stage(steps=2, batch=2, scene=SceneConfig(size=16))
    for data in (
        SyntheticDataModule([stage]),
        ScenesAndClips([stage], [1], str(tmp_path)),
        ClipDataModule(tmp_path, batch_size=2),
    ):
        assert data.train_dataloader().pin_memory == data.val_dataloader().pin_memory == there
