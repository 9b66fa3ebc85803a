"""index.json: what a folder of clip shards holds, written last and checked on the way in."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import webdataset as wds

INDEX_NAME = "index.json"
FORMAT = "lras-clips-1"


@dataclass(frozen=True)
class Shard:
    """One tar file, by its name inside the folder."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """All shards of one folder. Every clip has ``clip_frames`` frames of ``size`` px squared."""

    shards: tuple[Shard, ...]
    size: int
    clip_frames: int
    settings: dict[str, Any] = field(default_factory=dict)  # those of the command that wrote it

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


def write_index(folder: Path, index: ShardIndex) -> None:
    """Write ``index.json`` whole, next to its shards."""
    content = {"format": FORMAT, "num_samples": index.num_samples, **asdict(index)}
    write_whole(folder / INDEX_NAME, json.dumps(content, indent=1, sort_keys=True).encode())


def read_index(folder: str | Path) -> ShardIndex:
    """Read and check ``index.json``: present, complete, and every shard there with its length.

    Raises:
        ValueError: folder, index or a shard is missing, of another size, or not as written.
    """
    folder = Path(folder)
    path = folder / INDEX_NAME
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; pass one that `python -m data.ingest` wrote.")
    if not path.is_file():
        raise ValueError(f"no {INDEX_NAME} in {folder}; pass a folder that data.ingest wrote.")
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r} instead of {FORMAT!r}")
        index = ShardIndex(
            shards=tuple(Shard(**shard) for shard in content["shards"]),
            size=int(content["size"]),
            clip_frames=int(content["clip_frames"]),
            settings=content["settings"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not an index of clip shards ({error}); ingest again."
        ) from error
    _check_shards(folder, index)
    return index


def _check_shards(folder: Path, index: ShardIndex) -> None:
    if not index.num_samples:
        raise ValueError(f"{folder / INDEX_NAME} lists no clip; ingest again.")
    for shard in index.shards:
        path = folder / shard.name
        if Path(shard.name).name != shard.name:
            raise ValueError(
                f"{folder / INDEX_NAME} names a shard outside its folder: {shard.name}."
            )
        if not path.is_file():
            raise ValueError(f"{folder / INDEX_NAME} lists {shard.name}, which is not there.")
        if path.stat().st_size != shard.bytes:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes where {INDEX_NAME} says {shard.bytes}; "
                "copy or ingest it again."
            )


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename: whole or not there at all."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class ShardWriter:
    """Lays clips into numbered tar files; the folder is made at the first clip."""

    def __init__(
        self,
        folder: Path,
        shard_clips: int,
        size: int,
        clip_frames: int,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.shard_clips = folder, shard_clips
        self.size, self.clip_frames, self.settings = size, clip_frames, settings or {}
        self.shards: list[Shard] = []
        self.file: BinaryIO | None = None
        self.tar: wds.TarWriter | None = None
        self.in_shard = 0

    def write(self, sample: dict[str, str | bytes]) -> None:
        """Append one sample: ``__key__`` without a dot, and encoded bytes by suffix."""
        if self.tar is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = (self.folder / f"clips-{len(self.shards):06d}.tar").open("wb")
            # Fixed owner and time: the same clips make the same bytes.
            self.tar = wds.TarWriter(self.file, user="", group="", mtime=0, encoder=False)
        self.tar.write(sample)
        self.in_shard += 1
        if self.in_shard == self.shard_clips:
            self._end_shard()

    def finish(self) -> int:
        """End the last shard and write the index, if there was any clip; how many there were."""
        self._end_shard()
        if not self.shards:
            return 0
        index = ShardIndex(tuple(self.shards), self.size, self.clip_frames, self.settings)
        write_index(self.folder, index)
        sync_folder(self.folder)
        return index.num_samples

    def close(self) -> None:
        """Let go of the file of an unfinished shard."""
        if self.tar is not None:
            self.tar.close()
            self.file.close()

    def _end_shard(self) -> None:
        if self.tar is None:
            return
        self.tar.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        path = Path(self.file.name)
        with path.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        self.shards.append(Shard(path.name, self.in_shard, path.stat().st_size, digest))
        self.file, self.tar, self.in_shard = None, None, 0


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
