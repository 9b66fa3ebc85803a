"""Folders of shards, here or behind an fsspec URL, from which samples are read by their number."""

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from data.cache import FileCache
from data.index import INDEX_NAME, read_index, write_whole
from data.shard_index import OFFSETS_NAME, SOURCES_NAME

MAX_OPEN = 16  # shards kept open by one process


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """How shards behind a URL are read."""

    folder: str | None = None  # null = $XDG_CACHE_HOME/lras, or ~/.cache/lras
    gigabytes: int | float = 50  # of shards, at 10^9 bytes
    ranges: bool = False  # fetch single samples instead of whole shards, and keep none

    def __post_init__(self) -> None:
        if self.gigabytes <= 0:
            raise ValueError(f"got data.cache_gb={self.gigabytes}; pass a positive size.")

    def path(self) -> Path:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(self.folder) if self.folder else Path(home) / "lras"


def is_url(root: str | Path) -> bool:
    return "://" in str(root)


def open_folder(root: str | Path, split: str, cache: CacheConfig) -> "ShardFolder":
    """The shards of ``root/split``, a path or an fsspec URL (s3://, gs://, https://, memory://).

    Raises:
        ValueError: there is no such folder, or its index is not as written.
    """
    if is_url(root):
        return RemoteFolder(f"{str(root).rstrip('/')}/{split}", cache)
    return ShardFolder(Path(root) / split)


class ShardFolder:
    """Samples of a local folder, read by byte offset; no shard is ever held in memory."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.folder, self.index = folder.absolute(), read_index(folder)
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def read(self, sample: int) -> bytes:
        """The tar members of a sample by its number.

        Raises:
            ValueError: the shard ends before the sample does.
        """
        shard, start, length = self.index.locate(sample)
        content = self._read(shard, start, length)
        if len(content) != length:
            raise ValueError(f"the shard ends after {start + len(content)} bytes")
        return content

    def place(self, sample: int) -> str:
        """A sample's shard and number in it, in words."""
        shard = self.index.locate(sample)[0]
        number = sample - int(self.index.first[shard])
        return f"{self.index.shards[shard].name}, sample {number}"

    def _read(self, shard: int, start: int, length: int) -> bytes:
        # subtle: pread moves no file position, so forked workers may share an open file.
        return os.pread(self._file(shard).fileno(), length, start)

    def _file(self, shard: int) -> BinaryIO:
        if shard not in self._open:
            self._open[shard] = self._open_shard(shard)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return self._open[shard]

    def _open_shard(self, shard: int) -> BinaryIO:
        return (self.folder / self.index.shards[shard].name).open("rb", buffering=0)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}


class RemoteFolder(ShardFolder):
    """Samples behind a URL: whole shards pass through a local cache, or byte ranges are fetched."""

    def __init__(self, url: str, cache: CacheConfig) -> None:
        self.name = self.url = url
        self.ranges, base = cache.ranges, cache.path()
        self._system: tuple[int, Any] | None = None
        self.cache = FileCache(base / "shards", int(cache.gigabytes * 1e9))
        self.folder = self._fetch_index(base / "indices")
        self.index = read_index(self.folder, check_shards=False)
        self._open = OrderedDict()

    def _fetch_index(self, base: Path) -> Path:
        """A local folder with the index and its side files, named by what the index says."""
        content = self._whole(INDEX_NAME)
        folder = base / hashlib.sha256(self.url.encode() + content).hexdigest()[:32]
        if not (folder / INDEX_NAME).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for name in (OFFSETS_NAME, SOURCES_NAME):
                write_whole(folder / name, self._whole(name))
            write_whole(folder / INDEX_NAME, content)
        return folder

    def _whole(self, name: str) -> bytes:
        try:
            return self._files().cat_file(self._path(name))
        except FileNotFoundError as error:
            raise ValueError(
                f"no {name} at {self.url}; pass the URL of a folder that data.ingest wrote."
            ) from error

    def _path(self, name: str) -> str:
        self._files()
        return f"{self._base}/{name}"

    def _files(self) -> fsspec.AbstractFileSystem:
        """This process's own file system: connections and event loops do not survive a fork."""
        if self._system is None or self._system[0] != os.getpid():
            fresh = self._system is not None
            system, self._base = fsspec.url_to_fs(self.url, skip_instance_cache=fresh)
            self._system = os.getpid(), system
        return self._system[1]

    def _read(self, shard: int, start: int, length: int) -> bytes:
        if not self.ranges:
            return super()._read(shard, start, length)
        path = self._path(self.index.shards[shard].name)
        return self._files().cat_file(path, start=start, end=start + length)

    def _open_shard(self, shard: int) -> BinaryIO:
        about = self.index.shards[shard]
        origin = f"{self.url}/{about.name}"

        def copy(path: Path) -> None:
            self._files().get_file(self._path(about.name), str(path))

        while True:
            name = f"{about.sha256[:32]}.tar"
            path = self.cache.fetch(name, about.bytes, about.sha256, copy, origin)
            try:
                return path.open("rb", buffering=0)
            except FileNotFoundError:  # another process made room
                continue

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_system": None}
