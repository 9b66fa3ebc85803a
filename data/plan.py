"""Which samples a step trains on: a pure function of (seed, epoch, step), alike for any process.

The samples of a folder are permuted anew for each epoch; C streams own equal, consecutive parts of
that order, and every step takes the next m samples of each stream: C x m rows, the global batch.
A rank reads its own run of rows. Nothing depends on how many ranks and workers there are, nothing
is kept, and nothing has to be replayed to begin anywhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from data.mixture import Mixture
from data.permutation import key_of, permuted, sorted_by_chance

STREAMS = 12  # at least: can be dealt to 1, 2, 3, 4, 6 or 12 ranks


@dataclass(frozen=True)
class Tickets:
    """What to read, row by row: ``sample`` is its number within its folder, in order of shards.

    ``weight`` 0 marks a row that only fills up a batch.
    """

    source: Int64[np.ndarray, " rows"]
    epoch: Int64[np.ndarray, " rows"]
    sample: Int64[np.ndarray, " rows"]
    weight: Int64[np.ndarray, " rows"] | None = None


def choose_streams(global_batch: int, world: int = 1, wanted: int | None = None) -> int:
    """How many streams: as ``wanted``, or the smallest number from 12 on that divides the batch and
    that ``world`` divides; the batch itself (one row a stream) where there is none.

    Raises:
        ValueError: ``wanted`` does not divide the batch, or is no multiple of ``world``.
    """
    fits = [c for c in range(world, global_batch + 1, world) if global_batch % c == 0]
    if wanted is None:
        return next((c for c in fits if c >= STREAMS), global_batch)
    if wanted not in fits:
        known = ", ".join(str(c) for c in fits)
        raise ValueError(
            f"data.streams={wanted} does not divide the global batch of {global_batch} samples and "
            f"deal evenly to {world} ranks; set data.streams to one of {known}, or to null."
        )
    return wanted


class SourceOrder:
    """The order of one folder: which sample each stream takes as its n-th.

    Args:
        shard_samples: how many samples each shard holds.
        whole: a stream's share of an epoch is cut down to a multiple of this.
        window: null = samples of the whole folder are mixed; else shards are mixed, and then the
            samples in windows of this many, so that only few shards are in use at a time.
    """

    def __init__(
        self,
        shard_samples: Int64[np.ndarray, " shards"],
        streams: int,
        seed: str,
        whole: int = 1,
        window: int | None = None,
    ) -> None:
        self.shard_samples, self.seed, self.window = shard_samples, seed, window
        self.length = int(shard_samples.sum())
        self.stride = self.length // streams  # positions that a stream owns
        self.per_stream = self.stride // whole * whole  # samples of an epoch
        self._shards_of: dict[int, tuple] = {}  # by epoch; a batch meets two at most

    def take(
        self, stream: Int64[np.ndarray, " n"], number: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """(epoch, sample) of the ``number``-th samples that these streams take, counted from 0."""
        epoch, place = np.divmod(number, self.per_stream)
        position = stream * self.stride + place
        sample = np.empty_like(position)
        for each in np.unique(epoch):
            rows = epoch == each
            sample[rows] = self.sample_at(position[rows], int(each))
        return epoch, sample

    def sample_at(self, position: Int64[np.ndarray, " n"], epoch: int) -> Int64[np.ndarray, " n"]:
        """The sample at each position of an epoch's order."""
        if self.window is None:
            return permuted(position, self.length, key_of(self.seed, epoch))
        place = np.empty_like(position)
        windows = position // self.window
        for each in np.unique(windows):
            rows, start = windows == each, int(each) * self.window
            size = min(self.window, self.length - start)
            key = key_of(self.seed, epoch, "window", int(each))
            place[rows] = start + permuted(position[rows] - start, size, key)
        first, ends, order = self._shards(epoch)
        shard = np.searchsorted(ends, place, side="right")
        return first[order[shard]] + place - (ends[shard] - self.shard_samples[order[shard]])

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First sample of each shard; shards in the epoch's order, and where each ends in it."""
        if epoch not in self._shards_of:
            if len(self._shards_of) > 1:
                self._shards_of.pop(min(self._shards_of))
            first = np.cumsum(self.shard_samples) - self.shard_samples
            key = key_of(self.seed, epoch, "shards")
            order = sorted_by_chance(len(self.shard_samples), key)
            self._shards_of[epoch] = first, np.cumsum(self.shard_samples[order]), order
        return self._shards_of[epoch]


class Plan:
    """Rows of every step of a training, from one folder or from several mixed by weight.

    An epoch of one folder shows no sample twice and leaves out fewer than C + C * m samples, other
    ones each time. In a mixture each folder has epochs of its own, of which the same is true.

    Args:
        shard_samples: for each folder, how many samples each shard holds.
        weights: share of each folder among the rows; None = as many as it has samples.

    Raises:
        ValueError: streams or weights do not fit, or there are fewer samples than a batch takes.
    """

    def __init__(
        self,
        shard_samples: list[Int64[np.ndarray, " _"]],
        global_batch: int,
        streams: int,
        seed: int = 0,
        weights: list[int | float] | None = None,
        window: int | None = None,
    ) -> None:
        choose_streams(global_batch, 1, streams)
        self.global_batch, self.streams, self.seed = global_batch, streams, seed
        self.per_step = global_batch // streams  # rows of a stream in one step
        sizes = [int(samples.sum()) for samples in shard_samples]
        self.samples = sum(sizes)
        single = len(sizes) == 1
        if window is not None and window < 1:
            raise ValueError(f"got data.window={window}; pass at least 1 sample, or null for all.")
        for size in sizes:
            if size < (global_batch if single else streams):
                raise ValueError(
                    f"a folder of {size} samples is too small for batches of {global_batch} in "
                    f"{streams} streams; lower data.batch_size, or ingest more."
                )
        self.mixture = None if single else Mixture(weights or sizes, seed)
        whole = self.per_step if single else 1
        self.orders = [
            SourceOrder(samples, streams, f"{seed}/{source}", whole, window)
            for source, samples in enumerate(shard_samples)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; of a mixture, those that take as many samples as there are."""
        if self.mixture is None:
            return self.orders[0].per_stream // self.per_step
        return max(1, self.samples // self.global_batch)

    def rows(self, step: int, first: int = 0, end: int | None = None) -> Tickets:
        """Rows [first, end) of the global batch of a step; all without ``end``."""
        row = np.arange(first, self.global_batch if end is None else end)
        stream, place = np.divmod(row, self.per_step)
        number = step * self.per_step + place
        if self.mixture is None:
            epoch, sample = self.orders[0].take(stream, number)
            return Tickets(np.zeros_like(row), epoch, sample)
        source, number = self.mixture.assign(stream, number)
        epoch, sample = np.empty_like(row), np.empty_like(row)
        for each in np.unique(source):
            own = source == each
            epoch[own], sample[own] = self.orders[each].take(stream[own], number[own])
        return Tickets(source, epoch, sample)


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words, what two descriptions of plans do not share; "" where they are the same."""
    return ", ".join(
        f"{name} {before.get(name)} then and {now[name]} now"
        for name in now
        if before.get(name) != now[name]
    )


def held_out_rows(samples: list[int], batch_size: int, rank: int, world: int) -> list[Tickets]:
    """Batches of a rank that together with all others' hold every sample once, in order.

    All ranks get equally many batches and rows, ceil(samples / world); rows past the end repeat
    the last sample with weight 0.
    """
    total = sum(samples)
    batches = []
    for start in range(0, total, batch_size * world):
        share = -(-min(batch_size * world, total - start) // world)
        place = start + rank * share + np.arange(share)
        number = np.minimum(place, total - 1)
        ends = np.cumsum(samples)
        source = np.searchsorted(ends, number, side="right")
        sample = number - (ends - np.array(samples))[source]
        weight = (place < total).astype(np.int64)
        batches.append(Tickets(source, np.zeros_like(source), sample, weight))
    return batches
