"""The DataModule over folders of clip or token shards: exact order, exact resume."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler

from data.pairs import PairConfig
from data.plan import Plan, Tickets, choose_streams, difference, held_out_rows
from data.remote import CacheConfig, ShardFolder, is_url, open_folder
from data.shards import PairBatches


class ClipDataModule(LightningDataModule):
    """Batches of ``data.shards.PairBatches``: pairs of frames, or of codes where folders hold them.

    Training is endless and goes on, at every start of an epoch of the trainer, after the optimizer
    steps that the trainer has completed: end it with ``max_steps``, or give the trainer's epochs
    ``limit_train_batches``. One pass over the data takes ``steps_per_epoch`` optimizer steps. The
    rows of a step depend on ``seed``, the data, the global batch (``batch_size`` x ranks x
    accumulated batches) and ``streams`` alone, so a run may go on with other ranks, workers or
    accumulation. Validation shows every sample once, the same pair each time.

    Args:
        root: one folder that holds train/ and val/, or several to mix; paths or fsspec URLs.
        weights: of several folders, share of each in training; null = by number of samples.
        streams: see ``data.plan.choose_streams``; null also goes on with those of a resumed run.
        window: mix samples in windows of this many, for shards that pass through a cache; null =
            of the whole folder.
        rank, world: of those that read different data; null = as the trainer's strategy says,
            which leaves ranks that share data (tensor or context parallel) out of the count.
        accept_other_plan: go on from a checkpoint whose order of samples was another one.
        expect_fingerprint: of the encoder that codes must come from; predictor modules set it.
    """

    def __init__(
        self,
        root: str | Path | Sequence[str],
        batch_size: int = 32,  # pairs per rank
        num_workers: int = 0,
        min_gap: int | float = 1,  # in gap_unit
        max_gap: int | float = 4,
        crop_px: int | None = None,
        flip: bool = False,
        seed: int = 0,
        gap_unit: str = "frames",  # or seconds
        weights: list[int | float] | None = None,
        streams: int | None = None,
        window: int | None = None,  # samples
        multiprocessing_context: str | None = None,  # fork, spawn or forkserver
        rank: int | None = None,
        world: int | None = None,
        cache_dir: str | None = None,  # of shards behind URLs
        cache_gb: int | float = 50,
        byte_ranges: bool = False,  # fetch single samples from URLs, and keep none
        accept_other_plan: bool = False,
        expect_fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        roots = [root] if isinstance(root, str | Path) else list(root)
        if not roots or (weights is not None and len(weights) != len(roots)):
            raise ValueError(
                f"got {len(roots)} folders in data.root and data.weights={weights}; name at least "
                f"one folder and give each a weight, or none."
            )
        if (rank is None) != (world is None):
            raise ValueError(f"got rank={rank} and world={world}; pass both or none.")
        self.roots = [str(each) for each in roots]
        # For those who name the data; URLs lose their double slash in it.
        self.root = PurePosixPath(self.roots[0]) if is_url(self.roots[0]) else Path(self.roots[0])
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.pairs = PairConfig(
            min_gap=min_gap, max_gap=max_gap, crop_px=crop_px, flip=flip, gap_unit=gap_unit
        )
        self.weights, self.streams, self.window = weights, streams, window
        self.multiprocessing_context = multiprocessing_context
        self.rank, self.world = rank, world
        self.cache = CacheConfig(folder=cache_dir, gigabytes=cache_gb, ranges=byte_ranges)
        self.accept_other_plan, self.expect_fingerprint = accept_other_plan, expect_fingerprint
        self.resumed: dict[str, Any] | None = None

    # --- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Optimizer steps completed, and the plan they followed; the same on every rank."""
        return {"steps": self.steps_done, "plan": self._describe()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the steps of ``state_dict``. Whether its plan is ours is checked when the
        training data are asked for, so that another machine may validate with it.
        """
        self.resumed = state_dict

    @property
    def steps_done(self) -> int:
        """Optimizer steps completed: the trainer's, or those of the state that was loaded."""
        if self.trainer is not None:
            return self.trainer.global_step
        return self.resumed["steps"] if self.resumed else 0

    def _describe(self) -> dict[str, Any]:
        return {
            "data": [folder.index.identity[:16] for folder in self.training_folders],
            "weights": self.weights,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "streams": self._num_streams(),
            "window": self.window,
        }

    def _check_resumed(self) -> None:
        if self.resumed is None or self.accept_other_plan:
            return
        before, now = self.resumed.get("plan", {}), self._describe()
        if differs := difference(before, now):
            fix = self._batch_size_for(before.get("global_batch"))
            raise ValueError(
                f"the run to resume drew its batches by another plan ({differs}); {fix}or pass "
                f"data.accept_other_plan=true to go on with other batches."
            )

    def _batch_size_for(self, before: int | None) -> str:
        if before is None or before == self.global_batch:
            return "restore what differs, "
        parts = self.global_batch // self.batch_size
        fits = before % parts == 0
        return f"go on with data.batch_size={before // parts}, " if fits else "restore it, "

    # --- plan ----------------------------------------------------------------------------------

    @cached_property
    def training_folders(self) -> list[ShardFolder]:
        return self._folders("train")

    @cached_property
    def held_out_folders(self) -> list[ShardFolder]:
        return self._folders("val")

    @property
    def global_batch(self) -> int:
        """Pairs that one optimizer step sees, over all ranks and accumulated batches."""
        return self.batch_size * self._rank_and_world()[1] * self._accumulated()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training data."""
        return self.plan().steps_per_epoch

    def plan(self) -> Plan:
        """Which rows each step trains on."""
        shards = [folder.index.shard_samples for folder in self.training_folders]
        return Plan(
            shards, self.global_batch, self._num_streams(), self.seed, self.weights, self.window
        )

    def _num_streams(self) -> int:
        before, world = (self.resumed or {}).get("plan", {}), self._rank_and_world()[1]
        same_batch = before.get("global_batch") == self.global_batch
        if self.streams is not None or not same_batch or self.accept_other_plan:
            return choose_streams(self.global_batch, world, self.streams)
        if before["streams"] % world:
            raise ValueError(
                f"the run to resume reads {before['streams']} streams, which do not deal evenly to "
                f"{world} ranks; go on with a number of ranks that divides {before['streams']}, or "
                f"pass data.accept_other_plan=true to go on with other batches."
            )
        return before["streams"]

    def _rank_and_world(self) -> tuple[int, int]:
        if self.world is not None:
            return self.rank, self.world
        given = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (given["rank"], given["num_replicas"]) if given else (0, 1)

    def _accumulated(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    # --- loaders -------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        folders, plan = self.training_folders, self.plan()
        self._check_resumed()
        rank, world = self._rank_and_world()
        order = TrainingOrder(self, plan, rank, world, self._accumulated())
        return self._loader(PairBatches(folders, self.pairs, self.seed, is_train=True), order)

    def val_dataloader(self) -> DataLoader:
        rank, world = self._rank_and_world()
        samples = [folder.index.num_samples for folder in self.held_out_folders]
        batches = held_out_rows(samples, self.batch_size, rank, world)
        order = FixedOrder(batches, rank, world)
        batches = PairBatches(self.held_out_folders, self.pairs, self.seed, is_train=False)
        return self._loader(batches, order)

    test_dataloader = val_dataloader

    def _folders(self, split: str) -> list[ShardFolder]:
        folders = [open_folder(root, split, self.cache) for root in self.roots]
        _check_alike(folders, self.pairs.crop_px)
        for folder in folders:
            self.pairs.check(folder.index)
            found = folder.index.fingerprint
            if found and self.expect_fingerprint not in (None, found):
                raise ValueError(
                    f"the codes in {folder.name} come from the encoder {found} and the model's is "
                    f"{self.expect_fingerprint}; tokenize the clips again with that one."
                )
        return folders

    def _loader(self, batches: PairBatches, order: "FixedOrder") -> DataLoader:
        context = self.multiprocessing_context if self.num_workers else None
        return PlannedLoader(
            batches,
            sampler=order,
            batch_size=None,
            num_workers=self.num_workers,
            multiprocessing_context=context,
            pin_memory=torch.cuda.is_available(),  # or a copy to the GPU would make the host wait
            # Every pass draws a seed for its workers; of torch's own random numbers it would be
            # one more for a run that was stopped.
            generator=torch.Generator(),
        )


def _check_alike(folders: list[ShardFolder], crop_px: int | None) -> None:
    first = folders[0].index
    for folder in folders[1:]:
        index = folder.index
        sizes_differ = index.size != first.size and crop_px is None
        if sizes_differ or (index.kind, index.fingerprint) != (first.kind, first.fingerprint):
            raise ValueError(
                f"{folder.name} holds {index.kind} of {index.size} px (encoder "
                f"{index.fingerprint}) and {folders[0].name} {first.kind} of {first.size} px "
                f"(encoder {first.fingerprint}); mix folders of one kind, and of one size or with "
                f"crop_px."
            )


class PlannedLoader(DataLoader):
    """A loader whose place is worked out from the trainer's steps; it has no state of its own."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore: see ``ClipDataModule.load_state_dict``."""


class FixedOrder(DistributedSampler):
    """Batches that are dealt to ranks already: Lightning leaves such a sampler as it is."""

    def __init__(self, batches: Sequence[Tickets], rank: int, world: int) -> None:
        super().__init__(batches, num_replicas=world, rank=rank)
        self.batches = batches

    def __iter__(self) -> Iterator[Tickets]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class TrainingOrder(FixedOrder):
    """A rank's rows of every step, without end, from the first step that is not yet completed."""

    def __init__(
        self, data: ClipDataModule, plan: Plan, rank: int, world: int, accumulated: int
    ) -> None:
        super().__init__([], rank, world)
        self.data, self.plan, self.accumulated = data, plan, accumulated

    def __iter__(self) -> Iterator[Tickets]:
        step, size = self.data.steps_done, self.data.batch_size
        first = self.rank * size * self.accumulated
        while True:
            for start in range(first, first + size * self.accumulated, size):
                yield self.plan.rows(step, start, start + size)
            step += 1

    def __len__(self) -> int:
        raise TypeError("training goes on without end: it has no length.")
