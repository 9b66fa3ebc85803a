"""Tickets to batches: what a loader's worker does. It keeps nothing that a batch depends on.

What is drawn for a sample (frames, crop, flip) depends on (seed, epoch, key) alone, so it is the
same whoever reads it.
"""

import logging
import tarfile
from collections.abc import Sequence
from io import BytesIO
from random import Random
from typing import Any

import cv2
import torch
from torch.utils.data import Dataset

from data.pairs import PairConfig, pick_pair
from data.permutation import key_of
from data.plan import Tickets
from data.remote import ShardFolder
from data.shard_index import BLOCK

log = logging.getLogger(__name__)

MIN_SEEN = 100  # samples before the share of corrupt ones means something
MAX_CORRUPT = 0.01  # of the samples seen
STAND_INS = 20  # corrupt samples in a row that end the run
CORRUPT = (ValueError, KeyError, TypeError, tarfile.TarError, cv2.error)


class PairBatches(Dataset):
    """Batches {"frames" uint8 (batch, 2, 3, H, W), "gap" int64 frames, "gap_s" float32 s, "key"}.

    Codes come as "codes" int64 (batch, 2, rows, cols) in place of frames. A corrupt sample is
    named, counted and replaced by another one of the same folder, which depends on the sample alone
    and which the epoch may show once more. Validation batches have a "weight" float32 (batch,), 0
    on rows that stand in or only fill up. Samples are counted by each worker for itself.

    Raises, while reading:
        ValueError: over 1 % of at least 100 samples are corrupt, or 20 in a row.
    """

    def __init__(
        self, folders: Sequence[ShardFolder], pairs: PairConfig, seed: int, is_train: bool
    ) -> None:
        for folder in folders:
            pairs.check(folder.index)
        self.folders, self.pairs, self.seed, self.is_train = folders, pairs, seed, is_train
        self.seen = self.corrupt = 0

    def __getitem__(self, tickets: Tickets) -> dict[str, Any]:
        places = zip(tickets.source, tickets.epoch, tickets.sample, strict=True)
        rows = [self._row(int(s), int(epoch), int(number)) for s, epoch, number in places]
        batch = {
            "gap": torch.tensor([row["gap"] for row in rows]),
            "gap_s": torch.tensor([row["gap_s"] for row in rows], dtype=torch.float32),
            "key": [row["key"] for row in rows],
        }
        name = "codes" if "codes" in rows[0] else "frames"
        batch[name] = torch.stack([row[name] for row in rows])
        if tickets.weight is not None:
            real = torch.tensor([not row["is_stand_in"] for row in rows])
            batch["weight"] = torch.from_numpy(tickets.weight).float() * real
        return batch

    def _row(self, source: int, epoch: int, number: int) -> dict[str, Any]:
        samples, asked = self.folders[source].index.num_samples, number
        for attempt in range(1, STAND_INS + 1):
            row = self._read(source, epoch, number)
            if self.seen >= MIN_SEEN and self.corrupt > MAX_CORRUPT * self.seen:
                break
            if row is not None:
                return row | {"is_stand_in": attempt > 1}
            number = key_of("stand-in", self.seed, source, epoch, asked, attempt) % samples
        raise ValueError(
            f"{self.corrupt} of {self.seen} samples are corrupt (the last in "
            f"{self.folders[source].place(number)} of {self.folders[source].name}), over "
            f"{MAX_CORRUPT:.0%}; ingest the videos again or copy the shards again."
        )

    def _read(self, source: int, epoch: int, number: int) -> dict[str, Any] | None:
        folder, key = self.folders[source], "unnamed"
        self.seen += 1
        try:
            key, sample = members(folder.read(number))
            when = epoch if self.is_train else "held-out"
            rng = Random(f"{self.seed}/{source}/{when}/{key}")
            return pick_pair(sample, folder.index, self.pairs, rng, self.is_train) | {"key": key}
        except CORRUPT as error:
            self.corrupt += 1
            log.warning("skipped corrupt sample %s, %s: %s", folder.place(number), key, error)
            return None


def members(content: bytes) -> tuple[str, dict[str, bytes]]:
    """The key of a sample, and its tar members by what follows the key's dot.

    Raises:
        ValueError, tarfile.TarError: the bytes are not the members of one sample.
    """
    found: dict[str, bytes] = {}
    keys = set()
    for name, value in _plain_members(content) or _any_members(content):
        key, _, suffix = name.partition(".")
        keys.add(key)
        found[suffix] = value
    if len(keys) != 1:
        raise ValueError(f"its bytes hold {len(keys)} samples where the index says one")
    return keys.pop(), found


def _plain_members(content: bytes) -> list[tuple[str, bytes]] | None:
    """Members with a single header block each, at a third of the time; None if one has more."""
    found, start = [], 0
    while start < len(content):
        header = tarfile.TarInfo.frombuf(content[start : start + BLOCK], "utf-8", "strict")
        if header.type != tarfile.REGTYPE:
            return None
        start += BLOCK
        found.append((header.name, content[start : start + header.size]))
        start += -(-header.size // BLOCK) * BLOCK
    return found


def _any_members(content: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=BytesIO(content), mode="r:") as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]
