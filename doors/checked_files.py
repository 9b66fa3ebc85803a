"""Files that are either whole or not there, each with a checksum that says which.

A checkpoint is written under another name, brought to the disk and only then given its own, so
a process may be killed at any moment. Its checksum stands beside it, as ``sha256sum`` writes it:
``sha256sum --check last.ckpt.sha256``. Of a folder (a distributed checkpoint) every file is listed.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from data.index import sync_folder

PARTIAL, SUMS = ".partial", ".sha256"
FOLDER_SUMS = "SHA256SUMS"


class CountedFile:
    """What ``torch.save`` writes to: adds up the checksum, and keeps an error for later.

    subtle: torch's writer goes on after an error of the file and then brings down the process, so
    the first error is kept, the rest of the bytes are dropped, and ``check`` raises it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum, self.error = file, hashlib.sha256(), None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self.file.write(data)
                self.sum.update(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Done once, at the end."""

    def check(self) -> None:
        if self.error is not None:
            raise self.error
        self.file.flush()
        os.fsync(self.file.fileno())


def write_checked(path: Path, write: Callable[[Any], None]) -> None:
    """Replace ``path`` by what ``write`` writes, and its checksum with it; or leave both alone.

    Raises:
        OSError: the disk is full, or cannot be written for another reason.
    """
    partial = path.with_name(path.name + PARTIAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            counted = CountedFile(file)
            write(counted)
            counted.check()
        # Until the new file has its name, the sums of both are right: a kill may fall in between.
        before = sums_of(path) if path.is_file() else []
        new = counted.sum.hexdigest()
        _write_sums(path, [new, *before])
        partial.replace(path)
        _write_sums(path, [new])
        sync_folder(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def seal_folder(folder: Path, sums: dict[str, str]) -> None:
    """List the files of a distributed checkpoint with their sums: it is whole from here on."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    _write_text(folder / FOLDER_SUMS, text)
    sync_folder(folder)


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; nothing where it is as it was written.

    One that has no checksum (of an earlier version, or another program) passes if it is not empty.
    """
    if path.is_dir():
        return _damage_of_folder(path)
    if not path.is_file():
        return "is not there"
    expected = sums_of(path)
    if not path.stat().st_size:
        return "is empty"
    if expected and digest_of(path) not in expected:
        return "is not what was written: its checksum is another"
    return ""


def sums_of(path: Path) -> list[str]:
    """The checksums that a file may have; none where nobody wrote them down."""
    sums = path.with_name(path.name + SUMS)
    if not sums.is_file():
        return []
    return [line.split()[0] for line in sums.read_text().splitlines() if line.strip()]


def remove(path: Path) -> None:
    """Remove a checkpoint: its checksum last, so that nothing unchecked is ever left."""
    if path.is_dir():
        for file in [path / FOLDER_SUMS, *path.iterdir()]:
            file.unlink(missing_ok=True)
        path.rmdir()
    path.unlink(missing_ok=True)
    path.with_name(path.name + SUMS).unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(paths: Iterable[Path]) -> dict[str, str]:
    """Name -> checksum, after the bytes have been brought to the disk."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _damage_of_folder(folder: Path) -> str:
    if not (folder / FOLDER_SUMS).is_file():
        return f"has no {FOLDER_SUMS}: it was never finished"
    for line in (folder / FOLDER_SUMS).read_text().splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file():
            return f"lacks {name}"
        if digest_of(folder / name) != expected:
            return f"holds a {name} that is not what was written: its checksum is another"
    return ""


def _write_sums(path: Path, sums: list[str]) -> None:
    text = "".join(f"{digest}  {path.name}\n" for digest in dict.fromkeys(sums))
    _write_text(path.with_name(path.name + SUMS), text)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
