"""Copies of remote files in a local folder that never holds more than so many bytes."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.index import partial_path

STALE_S = 600.0  # a copy that has not grown for so long was given up by its process


class FileCache:
    """Whole files by name; the least recently opened go first. Processes may share it.

    A file is copied under a temporary name, checked, flushed and renamed. A file that is deleted
    while a process holds it open keeps its bytes on the disk until that process closes it.

    Args:
        max_bytes: of all files together, copies under way included.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes

    def fetch(
        self, name: str, size: int, sha256: str, copy: Callable[[Path], None], origin: str
    ) -> Path:
        """The local copy, made by ``copy(path)`` where there is none. It may go at any time: open
        it at once, and fetch again if it is not there.

        Raises:
            ValueError: the file is larger than the cache, or the copy is not what was promised.
        """
        if size > self.max_bytes:
            raise ValueError(
                f"{origin} has {size} bytes and the cache at {self.folder} may hold "
                f"{self.max_bytes}; raise data.cache_gb."
            )
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(f"{name}.lock"):  # one process copies, the others wait for it
            if not path.is_file():
                partial = self._reserve(path, size)
                try:
                    copy(partial)
                    _check(partial, size, sha256, origin)
                    with self._locked("lock"):  # who counts meets it under one of its two names
                        partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # gone again: the caller comes back
                os.utime(path)
        return path

    def _reserve(self, path: Path, size: int) -> Path:
        """Make room, and take it: an empty file under a temporary name that tells its length."""
        partial = partial_path(path.with_name(f"{size}-{path.name}"))
        while True:
            with self._locked("lock"):
                if self._make_room(size):
                    partial.touch()
                    return partial
            time.sleep(0.05)  # all room is taken by copies under way

    def _make_room(self, size: int) -> bool:
        held = {}
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # renamed or gone while we looked
                if path.is_file():
                    held[path] = path.stat()
        length = {path: _final_length(path, stat.st_size) for path, stat in held.items()}
        total = sum(length.values())
        for path in sorted(held, key=lambda path: held[path].st_mtime_ns):
            if total + size <= self.max_bytes:
                break
            stale = time.time() - held[path].st_mtime > STALE_S
            if stale or not path.name.startswith("."):
                path.unlink(missing_ok=True)
                total -= length[path]
        return total + size <= self.max_bytes

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        with (locks / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _final_length(path: Path, length: int) -> int:
    """Of a copy under way, the length it is going to have."""
    return int(path.name[1:].split("-")[0]) if path.name.startswith(".") else length


def _check(path: Path, size: int, sha256: str, origin: str) -> None:
    with path.open("r+b") as file:
        found = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    if (found, digest) != (size, sha256):
        raise ValueError(
            f"{origin} arrived with {found} bytes and sha256 {digest[:12]} where its index says "
            f"{size} and {sha256[:12]}; copy it to its place again."
        )
