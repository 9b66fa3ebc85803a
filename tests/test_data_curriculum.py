"""The curriculum: stages in turn, batches that depend on (seed, step, rank) alone."""

from pathlib import Path

import lightning as L
import pytest
import torch

from data.curriculum import CurriculumScenes, HeldOutScenes, Stage, SyntheticDataModule
from data.synthetic import SceneConfig

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


def test_seed_and_rank_change_the_batches():
    first = scenes()[0]["frames"]
    assert not torch.equal(first, scenes(rank=1)[0]["frames"])
    assert not torch.equal(first, scenes(seed=1)[0]["frames"])


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
