"""Training pairs of which some are synthetic scenes and some come from clips, in fixed numbers.

Both are functions of (seed, step, stream) alone, as in ``data.curriculum``: a run may stop at any
step and go on exactly, and N processes train on what one with N streams would have seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.curriculum import CurriculumScenes, Stage, SyntheticDataModule, check_streams
from data.pairs import PairConfig
from data.plan import Plan
from data.remote import CacheConfig, ShardFolder, open_folder
from data.shards import PairBatches


class ScenesAndClips(SyntheticDataModule):
    """A curriculum in some of whose stages real pairs take the place of the last scenes.

    Validation shows held-out scenes alone, so that its loss stays comparable.

    Args:
        clips: of every stage, how many pairs of its batch come from clips.
        clips_root: folder that holds train/, as ``data.ingest`` writes it; null = scenes alone.
        min_gap, max_gap, gap_unit: how far apart the frames of a real pair are.
    """

    def __init__(
        self,
        stages: list[Stage],
        clips: Sequence[int],
        clips_root: str | None = None,
        min_gap: int | float = 1,
        max_gap: int | float = 4,
        gap_unit: str = "frames",
        **options: Any,
    ) -> None:
        super().__init__(stages, **options)
        if len(clips) != len(stages):
            raise ValueError(
                f"data.clips={list(clips)} and there are {len(stages)} stages; write one number of "
                f"pairs for each of data.stages."
            )
        for count, stage in zip(clips, stages, strict=True):
            if not 0 <= count < stage.batch:
                raise ValueError(
                    f"data.clips={list(clips)}: {count} pairs from clips do not leave a scene in a "
                    f"batch of {stage.batch}; use 0 to {stage.batch - 1}."
                )
        self.clips, self.clips_root, self.options = list(clips), clips_root, options
        self.gaps = {"min_gap": min_gap, "max_gap": max_gap, "gap_unit": gap_unit}

    @cached_property
    def training_folder(self) -> ShardFolder:
        folder = open_folder(self.clips_root, "train", CacheConfig())
        if folder.index.kind != "clips":
            raise ValueError(
                f"{folder.name} holds {folder.index.kind}; scenes mix with clips only."
            )
        return folder

    def clips_in_words(self) -> str | None:
        """What a training note says of the clips; None where there are none."""
        if self.clips_root is None:
            return None
        gaps = f"{self.gaps['min_gap']} to {self.gaps['max_gap']} {self.gaps['gap_unit']}"
        counts = ", ".join(map(str, self.clips))
        name = PurePosixPath(self.clips_root).name
        return f"of which {counts} pairs of each batch are of clips of {name}, {gaps} apart"

    def mixed(self) -> "ScenesAndClips":
        twin = ScenesAndClips(self.stages, self.clips, self.clips_root, **self.gaps, **self.options)
        twin.stages, twin.is_mixed, twin.streams = self.stages, True, self.streams
        return twin

    def state_dict(self) -> dict[str, Any]:
        own = None if self.clips_root is None else self.training_folder.index.identity[:16]
        return super().state_dict() | {"clips": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of scenes alone.

        Raises:
            ValueError: as there; or the clips are others than those of the run.
        """
        own = None if self.clips_root is None else self.training_folder.index.identity[:16]
        if state_dict.get("clips") != own:
            raise ValueError(
                f"the run to resume was fed clips {state_dict.get('clips')} and data.clips_root="
                f"{self.clips_root} holds {own}; name the same clips, or start a new run."
            )
        super().load_state_dict(state_dict)

    def train_dataloader(self) -> DataLoader:
        if self.clips_root is None:
            return super().train_dataloader()
        rank = self.trainer.global_rank if self.trainer else 0
        world, parts = self._world_and_parts()
        where = self.start, rank, self.textures, self.is_mixed, world, self.streams, parts
        streams = check_streams(self.stages, self.streams, world, parts)
        for count in self.clips:
            if count % streams:
                raise ValueError(
                    f"data.clips={self.clips}: {count} pairs do not divide into {streams} equal "
                    f"streams; use a multiple of {streams}."
                )
        pairs = zip(self.stages, self.clips, strict=True)
        left = [replace(stage, batch=stage.batch - count) for stage, count in pairs]
        scenes = CurriculumScenes(left, self.seed, *where)
        return DataLoader(
            BlendedBatches(scenes, self.clips, self.training_folder, self.gaps),
            batch_size=None,
            num_workers=self.num_workers,
            multiprocessing_context="spawn" if self.num_workers else None,
            # See SyntheticDataModule.
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )


class BlendedBatches(IterableDataset):
    """The batches of ``scenes``, each with its stage's pairs from clips.

    Raises:
        ValueError: clips are too short or too small for a stage, or fewer than a batch takes.
    """

    def __init__(
        self,
        scenes: CurriculumScenes,
        clips: Sequence[int],
        folder: ShardFolder,
        gaps: dict[str, Any],
    ) -> None:
        self.scenes, samples = scenes, [folder.index.shard_samples]
        self.plans: list[Plan | None] = []
        self.batches: list[PairBatches] = []
        for count, stage in zip(clips, scenes.stages, strict=True):
            plan = Plan(samples, count, scenes.streams, scenes.seed) if count else None
            self.plans.append(plan)
            pairs = PairConfig(crop_px=stage.scene.size, **gaps)
            self.batches.append(PairBatches([folder], pairs, scenes.seed, is_train=True))

    def __len__(self) -> int:
        return len(self.scenes)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        start = self.scenes.start * self.scenes.parts + first
        for index, batch in enumerate(self.scenes):
            step, part = divmod(start + index * stride, self.scenes.parts)
            stage = self.scenes.stage_index(step)
            if plan := self.plans[stage]:
                streams = self.scenes.own_streams[part]
                rows = plan.rows(step, streams.start * plan.per_step, streams.stop * plan.per_step)
                batch = joined(batch, self.batches[stage][rows], len(streams))
            yield batch


def joined(scenes: dict[str, Any], clips: dict[str, Any], streams: int) -> dict[str, Any]:
    """One batch of both, each stream's clips behind its scenes, as the orders of patches are."""
    places = torch.arange(len(scenes["key"]) + len(clips["key"]))
    both = places[: len(scenes["key"])].chunk(streams), places[len(scenes["key"]) :].chunk(streams)
    order = torch.cat([part for stream in zip(*both, strict=True) for part in stream])
    keys = [*scenes["key"], *clips["key"]]
    return {
        "frames": torch.cat([scenes["frames"], clips["frames"]])[order],
        "gap": torch.cat([scenes["gap"], clips["gap"]])[order],
        "key": [keys[place] for place in order.tolist()],
        "frame1_share": scenes["frame1_share"],
    }
