"""Endless synthetic training pairs in stages: small and easy first, larger and harder later.

The batch of a step is made of ``streams`` equal parts, each a pure function of (seed, step,
stream), and a rank draws its own run of streams, in as many batches as it accumulates gradients
over. So a run can stop at any step and go on exactly, and N processes, or one that accumulates N
batches, train on the very pairs that one process with N streams would have seen.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import lightning as L
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.synthetic import SceneBatch, SceneConfig, SceneSampler
from data.textures import texture_bank

STREAM = 1  # salts the seeds of scenes, so that no other stream of the same seed equals theirs


@dataclass(frozen=True, kw_only=True)
class Stage:
    """So many optimizer steps on scenes of one kind."""

    steps: int
    batch: int  # pairs per optimizer step, over all ranks and accumulated batches together
    frame1_share: float = 1.0  # share of frame 1's patches in a training sequence
    scene: SceneConfig = field(default_factory=SceneConfig)


class CurriculumScenes(IterableDataset):
    """This rank's part of every batch, from ``start`` to the last stage's end; workers take turns.

    ``parts``: batches that a rank's share of one optimizer step comes in. ``streams`` defaults to
    ``world * parts``: one for each batch. ``mixed`` goes round all stages step by step instead of
    one after the other.

    Raises:
        ValueError: the streams do not divide among ranks and parts, or a batch among streams.
    """

    def __init__(
        self,
        stages: list[Stage],
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        textures: int = 600,
        mixed: bool = False,
        world: int = 1,
        streams: int | None = None,
        parts: int = 1,
    ) -> None:
        self.stages, self.seed, self.start, self.parts = stages, seed, start, parts
        self.textures, self.mixed = textures, mixed
        self.streams = check_streams(stages, streams, world, parts)
        each = self.streams // (world * parts)
        firsts = [(rank * parts + part) * each for part in range(parts)]
        self.own_streams = [range(first, first + each) for first in firsts]  # of every part

    def __len__(self) -> int:
        # Of the whole curriculum: Lightning counts a resumed epoch from its beginning.
        return self.parts * sum(stage.steps for stage in self.stages)

    def __iter__(self) -> Iterator[dict]:
        bank = texture_bank("train", self.seed, self.textures)
        samplers = [SceneSampler(stage.scene, bank) for stage in self.stages]
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch_index in range(self.start * self.parts + first, len(self), stride):
            step, part = divmod(batch_index, self.parts)
            index = self.stage_index(step)
            stage = self.stages[index]
            pairs, own_streams = stage.batch // self.streams, self.own_streams[part]
            scenes = [self._draw(samplers[index], pairs, step, s) for s in own_streams]
            frame0, frame1 = (
                torch.cat([getattr(each, name) for each in scenes]) for name in ("frame0", "frame1")
            )
            batch = as_batch(frame0, frame1, f"step{step}", pairs * own_streams.start)
            yield batch | {"frame1_share": stage.frame1_share}

    def _draw(self, sampler: SceneSampler, pairs: int, step: int, stream: int) -> SceneBatch:
        seed = hash((STREAM, self.seed, step, stream)) % 2**63
        return sampler.sample(pairs, torch.Generator().manual_seed(seed))

    def stage_index(self, step: int) -> int:
        """Index of the stage that ``step`` falls into."""
        if self.mixed:
            return step % len(self.stages)
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index
            step -= stage.steps
        raise ValueError(f"step {step} lies past the end of the curriculum; lengthen data.stages.")


def check_streams(stages: list[Stage], streams: int | None, world: int, parts: int = 1) -> int:
    """The number of streams in force; ValueError where ranks, parts or batches do not fit it."""
    streams = world * parts if streams is None else streams
    if streams < 1 or streams % (world * parts):
        each = f" that accumulate {parts} batches each" if parts > 1 else ""
        raise ValueError(
            f"data.streams={streams} do not divide among {world} processes{each}; set data.streams "
            f"to a multiple of {world * parts}, or run on a number of processes that divides "
            f"{streams // parts}."
        )
    for index, stage in enumerate(stages):
        if stage.batch % streams:
            raise ValueError(
                f"data.stages.{index}.batch={stage.batch} pairs over all processes do not divide "
                f"into {streams} equal streams; set it to {-(-stage.batch // streams) * streams}."
            )
    return streams


class HeldOutScenes(IterableDataset):
    """A fixed, seeded set of batches with textures that are never trained on.

    The same pairs at any world size: ranks take consecutive rows of each batch, all equally many.
    Where the batch does not divide, rows past its end repeat its last one with "weight" 0.
    """

    def __init__(
        self,
        scene: SceneConfig,
        num_batches: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.scene, self.num_batches, self.batch, self.seed = scene, num_batches, batch, seed
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[dict]:
        sampler = SceneSampler(self.scene, texture_bank("eval", self.seed, count=100))
        generator = torch.Generator().manual_seed(self.seed)
        share = -(-self.batch // self.world)
        places = torch.arange(self.rank * share, (self.rank + 1) * share)
        rows = places.clamp_max(self.batch - 1)
        for index in range(self.num_batches):
            scenes = sampler.sample(self.batch, generator)
            frame0, frame1 = scenes.frame0[rows], scenes.frame1[rows]
            batch = as_batch(frame0, frame1, f"held-out{index}", self.rank * share)
            if self.batch % self.world:
                batch["weight"] = (places < self.batch).float()
            yield batch


def as_batch(frame0: Tensor, frame1: Tensor, key: str, first: int = 0) -> dict:
    """The batch every training loader yields; frames in [0, 1] become uint8.

    ``first`` is the place of these pairs in the batch of all ranks; keys count from it.
    """
    frames: UInt8[Tensor, "batch 2 3 height width"] = (
        (torch.stack([frame0, frame1], dim=1) * 255).round().to(torch.uint8)
    )
    batch = len(frames)
    return {
        "frames": frames,
        "gap": torch.ones(batch, dtype=torch.long),
        "key": [f"{key}/{first + i}" for i in range(batch)],
    }


class SyntheticDataModule(L.LightningDataModule):
    """Curriculum for training, held-out scenes of the last stage's kind for validation.

    ``streams``: parts that every batch is drawn in; null = as many as there are processes, or, in a
    resumed run, as many as that run had.
    """

    def __init__(
        self,
        stages: list[Stage],
        seed: int = 0,
        num_workers: int = 0,
        val_batches: int = 4,
        textures: int = 600,
        steps_scale: float = 1.0,
        streams: int | None = None,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("data.stages is empty; list at least one {steps, batch, scene}.")
        self.stages = [
            replace(stage, steps=max(1, round(stage.steps * steps_scale))) for stage in stages
        ]
        self.seed, self.num_workers, self.textures = seed, num_workers, textures
        self.val_batches, self.is_mixed, self.streams = val_batches, False, streams
        self.start = 0  # batch to begin with; a checkpoint sets it

    def mixed(self) -> "SyntheticDataModule":
        """The same scenes with all stages mixed from the first step on, as a quantizer wants."""
        twin = SyntheticDataModule(
            self.stages, self.seed, self.num_workers, self.val_batches, self.textures
        )
        twin.is_mixed, twin.streams = True, self.streams
        return twin

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole curriculum."""
        return sum(stage.steps for stage in self.stages)

    def state_dict(self) -> dict[str, int]:
        """Batches consumed so far and the streams they were drawn in; the same on every rank."""
        streams = self.streams or self.trainer.world_size * self.trainer.accumulate_grad_batches
        return {"batches": self.trainer.global_step, "streams": streams}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after the batches of ``state_dict``, in its streams.

        Raises:
            ValueError: the configured streams, or the number of processes, do not fit them.
        """
        world, parts = self._world_and_parts()
        before = state_dict.get("streams", 1)
        if (self.streams or before) != before or before % (world * parts):
            now = f"data.streams={self.streams}" if self.streams else f"{world} processes"
            now += f" of {parts} accumulated batches" if parts > 1 else ""
            raise ValueError(
                f"the run to resume drew its batches in {before} streams and {now} would draw "
                f"other ones; leave data.streams=null and use a number of processes that divides "
                f"{before}, or start a new run with init_from."
            )
        self.start, self.streams = state_dict["batches"], before
        # Lightning asks the loader for a state; ours needs none beyond the number of its batch.
        warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")

    def train_dataloader(self) -> DataLoader:
        rank = self.trainer.global_rank if self.trainer else 0
        world, parts = self._world_and_parts()
        scenes = CurriculumScenes(
            self.stages,
            self.seed,
            self.start,
            rank,
            self.textures,
            self.is_mixed,
            world,
            self.streams,
            parts,
        )
        return DataLoader(
            scenes,
            batch_size=None,
            num_workers=self.num_workers,
            multiprocessing_context="spawn" if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),  # or a copy to the GPU would make the host wait
            generator=torch.Generator(),  # or a resumed run would draw one seed more than another
        )

    def val_dataloader(self) -> DataLoader:
        last, (world, _) = self.stages[-1], self._world_and_parts()
        rank = self.trainer.global_rank if self.trainer else 0
        scenes = HeldOutScenes(last.scene, self.val_batches, last.batch, self.seed, rank, world)
        pinned = torch.cuda.is_available()
        return DataLoader(scenes, batch_size=None, pin_memory=pinned, generator=torch.Generator())

    test_dataloader = val_dataloader

    def _world_and_parts(self) -> tuple[int, int]:
        """Processes that train, and the batches that each accumulates for one optimizer step."""
        trainer = self.trainer
        return (trainer.world_size, trainer.accumulate_grad_batches) if trainer else (1, 1)
