"""index.json: what a folder of shards holds, written last and checked on the way in.

Beside it lie ``index.offsets.npy``, where in its tar file each sample begins, and
``index.sources.json``, the video each sample comes from; the first is read through a memory map and
the second on demand, so that an index of 100 million samples opens in a second.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import webdataset as wds

from data.shard_index import BLOCK, OFFSETS_NAME, SOURCES_NAME, Shard, ShardIndex

INDEX_NAME = "index.json"
FORMAT = "lras-clips-2"
ABOUT = ("size", "clip_frames", "settings", "kind", "fps", "fingerprint")


def write_index(folder: Path, index: ShardIndex) -> None:
    """Write ``index.json`` whole, next to its shards, after its side files.

    Every shard must hold its ``offsets``.
    """
    lacking = [s.name for s in index.shards if len(s.offsets) != s.samples + 1]
    if lacking:
        raise ValueError(f"{lacking[0]} comes without the offsets of its samples; ingest again.")
    blocks = np.concatenate([np.array(shard.offsets, np.int64) for shard in index.shards]) // BLOCK
    write_whole(folder / OFFSETS_NAME, _as_npy(blocks.astype(np.uint32)))
    sources = [shard.sources for shard in index.shards]
    write_whole(folder / SOURCES_NAME, json.dumps(sources, separators=(",", ":")).encode())
    content = {"format": FORMAT, "num_samples": index.num_samples}
    content |= {name: getattr(index, name) for name in ABOUT}
    own = ("name", "samples", "bytes", "sha256")
    content["shards"] = [{key: getattr(shard, key) for key in own} for shard in index.shards]
    write_whole(folder / INDEX_NAME, json.dumps(content, indent=1, sort_keys=True).encode())


def _as_npy(values: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def read_index(folder: str | Path, check_shards: bool = True) -> ShardIndex:
    """Read and check ``index.json``: present, complete, and every shard there with its length.

    ``check_shards``: False where the shards themselves lie elsewhere.

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
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r} instead of {FORMAT!r}")
        about = {name: content[name] for name in ABOUT}
        shards = tuple(Shard(**shard) for shard in content["shards"])
        index = ShardIndex(shards, **about, folder=str(folder.absolute()))
        if index.num_samples != content["num_samples"]:
            raise ValueError(f"num_samples={content['num_samples']} where {index.num_samples} are")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not an index of clip shards ({error}); ingest again."
        ) from error
    if not index.num_samples:
        raise ValueError(f"{path} lists no clip; ingest again.")
    _check_side_files(folder, index)
    for shard in index.shards:
        if os.path.basename(shard.name) != shard.name:
            raise ValueError(f"{path} names a shard outside its folder: {shard.name}.")
    if check_shards:
        _check_shards(folder, index)
    return index


def _check_side_files(folder: Path, index: ShardIndex) -> None:
    missing = [n for n in (OFFSETS_NAME, SOURCES_NAME) if not (folder / n).is_file()]
    if missing:
        raise ValueError(f"no {missing[0]} beside {folder / INDEX_NAME}; copy or ingest it again.")
    try:
        entries = len(index.blocks)
    except ValueError as error:  # cut off, or no array at all
        raise ValueError(
            f"{folder / OFFSETS_NAME} cannot be read ({error}); copy or ingest it again."
        ) from error
    expected = index.num_samples + len(index.shards)
    if entries != expected:
        raise ValueError(
            f"{folder / OFFSETS_NAME} has {entries} entries where {INDEX_NAME} asks for "
            f"{expected}; copy or ingest it again."
        )


def _check_shards(folder: Path, index: ShardIndex) -> None:
    with os.scandir(folder) as entries:  # far quicker than asking for each by its path
        found = {each.name: each.stat().st_size for each in entries if each.is_file()}
    for shard in index.shards:
        if shard.name not in found:
            raise ValueError(f"{folder / INDEX_NAME} lists {shard.name}, which is not there.")
        if found[shard.name] != shard.bytes:
            raise ValueError(
                f"{folder / shard.name} has {found[shard.name]} bytes where {INDEX_NAME} says "
                f"{shard.bytes}; copy or ingest it again."
            )


def marker_path(folder: Path, name: str) -> Path:
    """The marker beside the shard of this name: written after it, so that it is there in full."""
    return folder / f"{name}.json"


def write_marker(folder: Path, shard: Shard, about: dict[str, Any]) -> None:
    """Say that a shard is complete, what it holds (``Shard``) and of what kind (``ABOUT``)."""
    content = {"format": FORMAT, "shard": asdict(shard), "about": about}
    write_whole(marker_path(folder, shard.name), json.dumps(content, sort_keys=True).encode())


def read_marker(folder: Path, name: str) -> tuple[Shard, dict[str, Any]]:
    """The shard of this name and what is said about it.

    Raises:
        ValueError: the marker is not there or not as written.
    """
    path = marker_path(folder, name)
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r} instead of {FORMAT!r}")
        shard = content["shard"]
        shard["offsets"] = tuple(shard["offsets"])
        shard["sources"] = tuple((source, count) for source, count in shard["sources"])
        return Shard(**shard), content["about"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no marker of a shard ({error}); ingest again.") from error


def merge_index(
    folder: str | Path, shards: Iterable[str] | None = None, keep_markers: bool = False
) -> ShardIndex | None:
    """Make ``index.json`` of the markers beside the shards, in order of their names.

    The same shards make the same index, whoever wrote them and when. None, and no file, where there
    is no shard. Markers go once the index stands, unless ``keep_markers``.

    Args:
        shards: names of the tar files that belong to the folder; None = all that have a marker.

    Raises:
        ValueError: a marker is missing or broken, or markers tell of different settings.
    """
    folder = Path(folder)
    found = (path.name.removesuffix(".json") for path in folder.glob("*.tar.json"))
    names = sorted(found if shards is None else shards)
    if not names:
        return None
    if any(not marker_path(folder, name).is_file() for name in names):
        merged = _merged_before(folder, names)
        if merged is not None:
            _drop_markers(folder, () if keep_markers else names)
            return merged
    read = [read_marker(folder, name) for name in names]
    about = read[0][1]
    for shard, other in read:
        if other != about:
            raise ValueError(
                f"{folder / shard.name} was written with other settings than {names[0]}; "
                f"delete {folder} and ingest again."
            )
    write_index(folder, ShardIndex(tuple(shard for shard, _ in read), **about))
    sync_folder(folder)
    _drop_markers(folder, () if keep_markers else names)
    return read_index(folder)


def _merged_before(folder: Path, names: list[str]) -> ShardIndex | None:
    """The index, if it lists these very shards: a merge was cut off while it dropped markers."""
    if not (folder / INDEX_NAME).is_file():
        return None
    index = read_index(folder)
    return index if [shard.name for shard in index.shards] == names else None


def _drop_markers(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        marker_path(folder, name).unlink(missing_ok=True)


class ShardWriter:
    """Lays samples into numbered tar files; the folder is made at the first sample.

    A shard is written under a temporary name, flushed to the disk and renamed, and then gets its
    marker, so that it is there in full or not at all and several writers may share a folder.

    Args:
        prefix: shards are called PREFIX-000000.tar, PREFIX-000001.tar, ...
        kind, fps, fingerprint: see ``ShardIndex``.
    """

    def __init__(
        self,
        folder: Path,
        shard_clips: int,
        size: int,
        clip_frames: int,
        settings: dict[str, Any] | None = None,
        *,
        prefix: str = "clips",
        kind: str = "clips",
        fps: float | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.folder, self.shard_clips, self.prefix = Path(folder), shard_clips, prefix
        index = ShardIndex((), size, clip_frames, settings or {}, kind, fps, fingerprint)
        # As JSON gives it back: a list for a tuple.
        self.about = json.loads(json.dumps({name: getattr(index, name) for name in ABOUT}))
        self.shards: list[Shard] = []
        self.file: _HashedFile | None = None
        self.tar: wds.TarWriter | None = None
        self.offsets: list[int] = []
        self.sources: list[list] = []

    def write(self, sample: dict[str, str | bytes]) -> None:
        """Append one sample: ``__key__`` without a dot, and encoded bytes by suffix.

        Where there is a "json" with a ``source``, that is the video the sample comes from.
        """
        if self.tar is None:
            self._begin_shard()
        source = str(json.loads(sample.get("json", "{}")).get("source", ""))
        self.tar.write(sample)
        self.offsets.append(self.tar.tarstream.offset)
        if self.sources and self.sources[-1][0] == source:
            self.sources[-1][1] += 1
        else:
            self.sources.append([source, 1])
        if len(self.offsets) > self.shard_clips:
            self._end_shard()

    def finish(self, index: bool = True) -> int:
        """End the last shard; how many samples were written.

        With ``index`` the shards of this writer make the folder's index, if there was any sample;
        without it they keep their markers, for ``merge_index``.
        """
        self._end_shard()
        if index and self.shards:
            merge_index(self.folder, [shard.name for shard in self.shards])
        return sum(shard.samples for shard in self.shards)

    def close(self) -> None:
        """Give up an unfinished shard: nothing is left of it."""
        if self.tar is not None:
            self.tar.close()
            self.file.close()
            partial_path(self.folder / self._name()).unlink(missing_ok=True)
            self.file, self.tar = None, None

    def _name(self) -> str:
        return f"{self.prefix}-{len(self.shards):06d}.tar"

    def _begin_shard(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = _HashedFile(partial_path(self.folder / self._name()))
        # Fixed owner and time: the same samples make the same bytes.
        self.tar = wds.TarWriter(self.file, user="", group="", mtime=0, encoder=False)
        self.offsets, self.sources = [0], []

    def _end_shard(self) -> None:
        if self.tar is None:
            return
        self.tar.close()
        self.file.flush_to_disk()
        path = self.folder / self._name()
        shard = Shard(
            name=path.name,
            samples=len(self.offsets) - 1,
            bytes=self.file.length,
            sha256=self.file.digest.hexdigest(),
            offsets=tuple(self.offsets),
            sources=tuple((source, count) for source, count in self.sources),
        )
        partial_path(path).replace(path)
        sync_folder(self.folder)
        write_marker(self.folder, shard, self.about)
        self.shards.append(shard)
        self.file, self.tar = None, None


class _HashedFile:
    """A file to write that knows its length and sha256 without being read again."""

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = path.open("wb")
        self.digest, self.length = hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.length += len(content)
        return self.file.write(content)

    def flush_to_disk(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def close(self) -> None:
        self.file.close()


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename: whole or not there at all."""
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """The hidden name under which this process writes ``path``; no other process uses it."""
    return path.with_name(f".{path.name}.partial-{socket.gethostname()}-{os.getpid()}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
