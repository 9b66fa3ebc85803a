"""Clip shards to frame pairs: the webdataset pipeline, in the order in which data flows.

Which consumer (worker of a rank) reads what is worked out here, openly: the shards are shuffled by
(seed, epoch) and only then dealt out. What is drawn for a sample (frames, crop, flip) depends on
(seed, epoch, key) alone, so it is the same whoever reads it.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import cv2
import numpy as np
import torch
import webdataset as wds
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

from data.index import Shard, ShardIndex, read_index

log = logging.getLogger(__name__)

PASS_EPOCHS = 1 << 20  # epochs set aside for one pass over an endless stream
MIN_SEEN = 100  # samples before the share of corrupt ones means something
MAX_CORRUPT = 0.01  # of the samples seen


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How two frames are picked from a clip."""

    min_gap: int = 1  # frames
    max_gap: int = 4  # frames; the gap is uniform in [min_gap, max_gap]
    crop_px: int | None = None  # square window, random in training, central in validation
    flip: bool = False  # mirror left-right half of the time (training only)

    def check(self, index: ShardIndex) -> None:
        """Raise ValueError if the clips of ``index`` are too short or too small."""
        if not 1 <= self.min_gap <= self.max_gap < index.clip_frames:
            raise ValueError(
                f"min_gap={self.min_gap} max_gap={self.max_gap} do not fit clips of "
                f"{index.clip_frames} frames; need 1 <= min_gap <= max_gap < {index.clip_frames}."
            )
        if self.crop_px is not None and not 1 <= self.crop_px <= index.size:
            raise ValueError(
                f"crop_px={self.crop_px} does not fit frames of {index.size} px; "
                f"pass 1 to {index.size}, or null for the whole frame."
            )


def train_pairs(
    folder: str | Path,
    pairs: PairConfig,
    seed: int = 0,
    shuffle: int = 500,
    rank: int = 0,
    world: int = 1,
) -> wds.DataPipeline:
    """Endless {"frames" uint8 (2, 3, H, W), "gap" frames, "key"}, one pair per clip and epoch.

    Args:
        shuffle: clips held encoded in memory, by each worker, to mix neighbors of one video.

    Raises:
        ValueError: the folder is no folder of shards, ``pairs`` does not fit it, or, while
            iterating, over 1 % of the samples are corrupt.
    """
    folder, index = Path(folder), read_index(folder)
    pairs.check(index)
    return wds.DataPipeline(
        PlannedShards(folder, index, rank, world, seed=seed, endless=True),
        read_samples,
        partial(_shuffle, size=shuffle, seed=f"{seed}/{rank}"),
        PickPairs(pairs, index.size, seed, is_train=True),
    )


def val_pairs(
    folder: str | Path, pairs: PairConfig, seed: int = 0, rank: int = 0, world: int = 1
) -> wds.DataPipeline:
    """Every clip once, over all ranks and workers together; the same pairs at each validation."""
    folder, index = Path(folder), read_index(folder)
    pairs.check(index)
    return wds.DataPipeline(
        PlannedShards(folder, index, rank, world, seed=seed, endless=False),
        read_samples,
        PickPairs(pairs, index.size, seed, is_train=False),
    )


@dataclass(frozen=True)
class ShardPart:
    """Samples ``first``, ``first + step``, ... of one shard, in one epoch."""

    path: Path
    samples: int  # in the whole shard
    first: int
    step: int
    epoch: int


class PlannedShards:
    """First stage: the parts of shards that fall to this consumer.

    With at least as many shards as consumers, whole shards are dealt out; with fewer, everyone
    reads every shard and takes its share of the samples. A finite stream always deals samples, so
    that ranks differ by one sample at most.
    """

    def __init__(
        self, folder: Path, index: ShardIndex, rank: int, world: int, seed: int, endless: bool
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"got rank={rank} of world={world}; need 0 <= rank < world.")
        self.folder, self.shards = folder.absolute(), index.shards
        self.rank, self.world, self.seed, self.endless = rank, world, seed, endless
        self.passes = 0  # each new iterator over an endless stream goes on with fresh epochs

    def __call__(self) -> Iterator[ShardPart]:
        worker = get_worker_info()
        workers, worker_id = (worker.num_workers, worker.id) if worker else (1, 0)
        consumer, consumers = worker_id * self.world + self.rank, workers * self.world
        if not self.endless:
            yield from self._deal_samples(list(self.shards), 0, consumer, consumers)
            return
        first_epoch, self.passes = self.passes * PASS_EPOCHS, self.passes + 1
        for epoch in count(first_epoch):
            shards = list(self.shards)
            Random(f"{self.seed}/{epoch}").shuffle(shards)
            if len(shards) < consumers:
                yield from self._deal_samples(shards, epoch, consumer, consumers)
            else:
                for shard in shards[consumer::consumers]:
                    yield ShardPart(self.folder / shard.name, shard.samples, 0, 1, epoch)

    def _deal_samples(
        self, shards: list[Shard], epoch: int, consumer: int, consumers: int
    ) -> Iterator[ShardPart]:
        # Turned by the epoch: with fewer samples than consumers, each still gets some in time.
        before = -epoch
        for shard in shards:
            first = (consumer - before) % consumers
            yield ShardPart(self.folder / shard.name, shard.samples, first, consumers, epoch)
            before += shard.samples


def read_samples(parts: Iterable[ShardPart]) -> Iterator[dict]:
    """Second stage: encoded samples, as webdataset groups them, with their epoch.

    What the index promises and the shard does not yield comes out as {"__lost__": reason}.
    """
    for part in parts:
        errors: list[str] = []

        def note(error: Exception, errors: list[str] = errors) -> bool:
            errors.append(str(error.args[0]) if error.args else type(error).__name__)
            return True

        found = 0
        for sample in wds.tarfile_samples([{"url": str(part.path)}], handler=note):
            if found % part.step == part.first and found < part.samples:
                yield {**sample, "__epoch__": part.epoch}
            found += 1
        for number in range(found, part.samples):
            if number % part.step == part.first:
                reason = "; ".join(errors) or f"ends after {found} of {part.samples} samples"
                lost = {"__key__": f"sample {number}", "__url__": str(part.path)}
                yield {**lost, "__epoch__": part.epoch, "__lost__": reason}


def _shuffle(samples: Iterator[dict], size: int, seed: str) -> Iterator[dict]:
    worker = get_worker_info()
    rng = Random(f"{seed}/{worker.id if worker else 0}")
    return wds.shuffle(size, initial=size, rng=rng)(samples) if size > 1 else samples


class PickPairs:
    """Last stage: decodes two frames of each clip; corrupt clips are named, skipped and counted.

    The count is kept over all passes of this consumer.
    """

    def __init__(self, pairs: PairConfig, size: int, seed: int, is_train: bool) -> None:
        self.pairs, self.size, self.seed, self.is_train = pairs, size, seed, is_train
        self.seen = self.corrupt = 0
        self.last_corrupt = ""

    def __call__(self, samples: Iterable[dict]) -> Iterator[dict]:
        for sample in samples:
            self.seen += 1
            pair = self._pick(sample)
            if self.seen >= MIN_SEEN:
                self._stop_if_too_many()
            if pair is not None:
                yield pair
        if self.corrupt == self.seen:
            self._stop_if_too_many()

    def _pick(self, sample: dict) -> dict | None:
        key = sample["__key__"]
        rng = Random(f"{self.seed}/{sample['__epoch__']}/{key}")
        try:
            return pick_pair(sample, self.pairs, self.size, rng, self.is_train)
        except (ValueError, KeyError, TypeError, cv2.error) as error:
            self.corrupt += 1
            self.last_corrupt = f"{Path(sample['__url__']).name}, {key}"
            log.warning("skipped corrupt sample %s: %s", self.last_corrupt, error)
            return None

    def _stop_if_too_many(self) -> None:
        if self.corrupt > MAX_CORRUPT * self.seen:
            raise ValueError(
                f"{self.corrupt} of {self.seen} samples are corrupt (last: {self.last_corrupt}), "
                f"over {MAX_CORRUPT:.0%}; ingest the videos again or copy the shards again."
            )


def pick_pair(sample: dict, pairs: PairConfig, size: int, rng: Random, is_train: bool) -> dict:
    """Two frames of one encoded clip of ``size`` px, cropped and mirrored alike.

    Raises:
        ValueError, KeyError, TypeError, cv2.error: the sample is corrupt.
    """
    if "__lost__" in sample:
        raise ValueError(sample["__lost__"])
    num_frames = json.loads(sample["json"])["num_frames"]
    gap = rng.randint(pairs.min_gap, min(pairs.max_gap, num_frames - 1))
    start = rng.randrange(num_frames - gap)
    both = torch.stack([_decode(sample, t, size) for t in (start, start + gap)])
    if pairs.crop_px is not None:
        spare = size - pairs.crop_px
        top, left = [rng.randint(0, spare) if is_train else spare // 2 for _ in range(2)]
        both = both[..., top : top + pairs.crop_px, left : left + pairs.crop_px]
    if pairs.flip and is_train and rng.random() < 0.5:
        both = both.flip(-1)
    return {"frames": both.contiguous(), "gap": gap, "key": sample["__key__"]}


def _decode(sample: dict, t: int, size: int) -> UInt8[Tensor, "3 size size"]:
    names = [f"{t:03d}.{suffix}" for suffix in ("jpg", "png")]
    encoded = next((sample[name] for name in names if name in sample), None)
    if encoded is None:
        raise ValueError(f"frame {t} is not there")
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise ValueError(f"frame {t} is no readable image")
    if pixels.shape[:2] != (size, size):
        height, width = pixels.shape[:2]
        raise ValueError(f"frame {t} is {height}x{width} px, the index says {size}x{size}")
    return torch.from_numpy(rearrange(pixels, "h w c -> c h w").copy())
