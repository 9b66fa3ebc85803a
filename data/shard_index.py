"""What an index says: the shards of a folder, and where in them each sample lies."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

OFFSETS_NAME, SOURCES_NAME = "index.offsets.npy", "index.sources.json"
KINDS = ("clips", "tokens")
BLOCK = 512  # bytes; tar files count in these


@dataclass(frozen=True)
class Shard:
    """One tar file, by its name inside the folder.

    ``offsets``: where each sample's first header lies, in bytes, and where the last one ends;
    ``sources``: runs (source, samples) of the videos they come from. Both are held by markers and
    by a ``ShardWriter``; an index that was read keeps them in its side files.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    offsets: tuple[int, ...] = ()
    sources: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class ShardIndex:
    """All shards of one folder. Every clip has ``clip_frames`` frames of ``size`` px squared.

    ``kind`` is "clips" (encoded frames) or "tokens" (codes, by the encoder of ``fingerprint``);
    ``fps`` the rate all clips share, None where each keeps its own.
    """

    shards: tuple[Shard, ...]
    size: int
    clip_frames: int
    settings: dict[str, Any] = field(default_factory=dict)  # those of the command that wrote it
    kind: str = "clips"
    fps: float | None = None
    fingerprint: str | None = None
    folder: str = ""  # where the side files lie; "" before the index was read

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.kind == "tokens") != (self.fingerprint is not None):
            raise ValueError(
                f"got kind={self.kind!r} and fingerprint={self.fingerprint!r}; pass 'clips' "
                f"without a fingerprint, or 'tokens' with that of their encoder."
            )

    @property
    def num_samples(self) -> int:
        return int(self.first[-1])

    @cached_property
    def shard_samples(self) -> Int64[np.ndarray, " shards"]:
        """How many samples each shard holds."""
        return np.array([shard.samples for shard in self.shards], np.int64)

    @cached_property
    def first(self) -> Int64[np.ndarray, " shards_and_end"]:
        """Number, within the folder, of each shard's first sample; last, the number of samples."""
        return np.concatenate([[0], np.cumsum(self.shard_samples)]).astype(np.int64)

    @cached_property
    def blocks(self) -> np.ndarray:
        """The side file, uint32 (samples + shards,): every shard's offsets in blocks."""
        return np.load(Path(self.folder) / OFFSETS_NAME, mmap_mode="r", allow_pickle=False)

    def offsets_of(self, shard: int) -> Int64[np.ndarray, " samples_and_end"]:
        """``Shard.offsets`` of the shard of this number, in bytes."""
        start = int(self.first[shard]) + shard
        blocks = self.blocks[start : start + self.shards[shard].samples + 1]
        return blocks.astype(np.int64) * BLOCK

    def locate(self, sample: int) -> tuple[int, int, int]:
        """(number of its shard, first byte, length in bytes) of a sample by its number."""
        shard = int(np.searchsorted(self.first, sample, side="right")) - 1
        start, end = (int(self.blocks[sample + shard + k]) * BLOCK for k in (0, 1))
        return shard, start, end - start

    def sources_of(self, shard: int) -> list[str]:
        """The video that each sample of the shard of this number comes from."""
        return [source for source, count in self._sources[shard] for _ in range(count)]

    @cached_property
    def _sources(self) -> list[list]:
        return json.loads((Path(self.folder) / SOURCES_NAME).read_text())

    @cached_property
    def identity(self) -> str:
        """A hash of what the folder holds, wherever it lies and whatever command wrote it."""
        held = [(shard.name, shard.samples, shard.sha256) for shard in self.shards]
        content = [self.kind, self.size, self.clip_frames, self.fingerprint, held]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are spawned map the file anew instead of receiving a copy of it.
        return {k: v for k, v in self.__dict__.items() if k not in ("blocks", "_sources")}
