"""Endless synthetic training pairs in stages: small and easy first, larger and harder later.

Batch i is a pure function of (seed, i, rank), so a run can stop at any step and go on exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import lightning as L
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.synthetic import SceneConfig, SceneSampler
from data.textures import texture_bank

STREAM = 1  # salts the seeds of scenes, so that no other stream of the same seed equals theirs


@dataclass(frozen=True, kw_only=True)
class Stage:
    """So many optimizer steps on scenes of one kind."""

    steps: int
    batch: int  # pairs per rank and step
    frame1_share: float = 1.0  # share of frame 1's patches in a training sequence
    scene: SceneConfig = field(default_factory=SceneConfig)


class CurriculumScenes(IterableDataset):
    """Whole batches, from step ``start`` to the last stage's end; workers take turns.

    ``mixed`` goes round all stages step by step instead of one after the other.
    """

    def __init__(
        self,
        stages: list[Stage],
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        textures: int = 600,
        mixed: bool = False,
    ) -> None:
        self.stages, self.seed, self.start, self.rank = stages, seed, start, rank
        self.textures, self.mixed = textures, mixed

    def __len__(self) -> int:
        # Of the whole curriculum: Lightning counts a resumed epoch from its beginning.
        return sum(stage.steps for stage in self.stages)

    def __iter__(self) -> Iterator[dict]:
        bank = texture_bank("train", self.seed, self.textures)
        samplers = [SceneSampler(stage.scene, bank) for stage in self.stages]
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.start + first, len(self), stride):
            index = self.stage_index(step)
            seed = hash((STREAM, self.seed, step, self.rank)) % 2**63
            generator = torch.Generator().manual_seed(seed)
            stage = self.stages[index]
            scenes = samplers[index].sample(stage.batch, generator)
            batch = as_batch(scenes.frame0, scenes.frame1, f"step{step}")
            yield batch | {"frame1_share": stage.frame1_share}

    def stage_index(self, step: int) -> int:
        """Index of the stage that ``step`` falls into."""
        if self.mixed:
            return step % len(self.stages)
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index
            step -= stage.steps
        raise ValueError(f"step {step} lies past the end of the curriculum; lengthen data.stages.")


class HeldOutScenes(IterableDataset):
    """A fixed, seeded set of batches with textures that are never trained on."""

    def __init__(self, scene: SceneConfig, num_batches: int, batch: int, seed: int) -> None:
        self.scene, self.num_batches, self.batch, self.seed = scene, num_batches, batch, seed

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[dict]:
        sampler = SceneSampler(self.scene, texture_bank("eval", self.seed, count=100))
        generator = torch.Generator().manual_seed(self.seed)
        for index in range(self.num_batches):
            scenes = sampler.sample(self.batch, generator)
            yield as_batch(scenes.frame0, scenes.frame1, f"held-out{index}")


def as_batch(frame0: Tensor, frame1: Tensor, key: str) -> dict:
    """The batch every training loader yields; frames in [0, 1] become uint8."""
    frames: UInt8[Tensor, "batch 2 3 height width"] = (
        (torch.stack([frame0, frame1], dim=1) * 255).round().to(torch.uint8)
    )
    batch = len(frames)
    return {
        "frames": frames,
        "gap": torch.ones(batch, dtype=torch.long),
        "key": [f"{key}/{i}" for i in range(batch)],
    }


class SyntheticDataModule(L.LightningDataModule):
    """Curriculum for training, held-out scenes of the last stage's kind for validation."""

    def __init__(
        self,
        stages: list[Stage],
        seed: int = 0,
        num_workers: int = 0,
        val_batches: int = 4,
        textures: int = 600,
        steps_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("data.stages is empty; list at least one {steps, batch, scene}.")
        self.stages = [
            replace(stage, steps=max(1, round(stage.steps * steps_scale))) for stage in stages
        ]
        self.seed, self.num_workers, self.textures = seed, num_workers, textures
        self.val_batches, self.is_mixed = val_batches, False
        self.start = 0  # batch to begin with; a checkpoint sets it

    def mixed(self) -> "SyntheticDataModule":
        """The same scenes with all stages mixed from the first step on, as a quantizer wants."""
        twin = SyntheticDataModule(
            self.stages, self.seed, self.num_workers, self.val_batches, self.textures
        )
        twin.is_mixed = True
        return twin

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole curriculum."""
        return sum(stage.steps for stage in self.stages)

    def state_dict(self) -> dict[str, int]:
        """Batches consumed so far; the same on every rank."""
        trainer = self.trainer
        return {"batches": trainer.global_step * trainer.accumulate_grad_batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start = state_dict["batches"]

    def train_dataloader(self) -> DataLoader:
        rank = self.trainer.global_rank if self.trainer else 0
        scenes = CurriculumScenes(
            self.stages, self.seed, self.start, rank, self.textures, self.is_mixed
        )
        return DataLoader(
            scenes,
            batch_size=None,
            num_workers=self.num_workers,
            multiprocessing_context="spawn" if self.num_workers else None,
        )

    def val_dataloader(self) -> DataLoader:
        last = self.stages[-1]
        scenes = HeldOutScenes(last.scene, self.val_batches, last.batch, self.seed)
        return DataLoader(scenes, batch_size=None)

    test_dataloader = val_dataloader
