"""The DataModule over a folder that ``data.ingest`` wrote."""

from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from data.shards import PairConfig, train_pairs, val_pairs


class ClipDataModule(LightningDataModule):
    """Batches {"frames" uint8 (batch, 2, 3, H, W), "gap" int64 (batch,) frames, "key" list[str]}.

    Training is endless: end it with ``max_steps``, or ``limit_train_batches`` per epoch.
    """

    def __init__(
        self,
        root: str | Path,  # holds train/ and val/
        batch_size: int = 32,
        num_workers: int = 0,
        min_gap: int = 1,  # frames
        max_gap: int = 4,  # frames
        crop_px: int | None = None,
        flip: bool = False,
        shuffle: int = 500,  # clips in each worker's shuffle buffer
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.pairs = PairConfig(min_gap=min_gap, max_gap=max_gap, crop_px=crop_px, flip=flip)
        self.shuffle, self.seed = shuffle, seed

    def state_dict(self) -> dict[str, int]:
        """Samples of one step over all ranks: what a resumed run must draw too."""
        return {"global_batch": self.batch_size * self._rank_and_world()[1]}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Raises ValueError if the run went on with another number of samples a step."""
        world = self._rank_and_world()[1]
        then, now = state_dict["global_batch"], self.batch_size * world
        if then != now:
            fits = then % world == 0
            fix = f"data.batch_size={then // world}" if fits else "as many processes as it had"
            raise ValueError(
                f"the run drew {then} samples a step, but {world} processes of "
                f"data.batch_size={self.batch_size} draw {now}; go on with {fix}."
            )

    def train_dataloader(self) -> DataLoader:
        rank, world = self._rank_and_world()
        pipeline = train_pairs(
            self.root / "train", self.pairs, self.seed, self.shuffle, rank=rank, world=world
        )
        # drop_last keeps every batch full: one stream per worker never ends.
        return self._loader(pipeline, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        rank, world = self._rank_and_world()
        pipeline = val_pairs(self.root / "val", self.pairs, self.seed, rank=rank, world=world)
        return self._loader(pipeline, drop_last=False)

    test_dataloader = val_dataloader

    def _rank_and_world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def _loader(self, pipeline, drop_last: bool) -> DataLoader:
        return DataLoader(
            pipeline,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            # A worker remembers which epochs its earlier passes have used up.
            persistent_workers=self.num_workers > 0,
            drop_last=drop_last,
        )
