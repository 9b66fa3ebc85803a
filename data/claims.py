"""Who works on which task: a claim file per task, with the host and process that holds it.

Claims only save work. Two workers that hold the same task, which a host that stood still for
minutes can bring about, write the same bytes under different temporary names, and whoever renames
last changes nothing.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

STALE_S = 300.0  # a claim of another host that has not been touched for so long is void


@dataclass(frozen=True)
class Claim:
    """A task that is ours until released."""

    path: Path
    content: bytes

    def touch(self) -> None:
        """Say that its holder is alive."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path)

    def release(self) -> None:
        """Give the task back, unless someone else has taken it over meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.read_bytes() == self.content:
                self.path.unlink()


def claim(path: Path, stale_s: float = STALE_S) -> Claim | None:
    """Take the claim file at ``path``; None where a living process holds it.

    That of a dead process of this host is taken over at once, any other when it is stale.
    """
    content = _own_mark()
    if create_whole(path, content):
        return Claim(path, content)
    held = _read(path)
    if held is None or not _is_void(path, held, stale_s):
        return None
    # Renamed to a name of our own first: of several that find a void claim, one succeeds.
    aside = path.with_name(f".{path.name}.partial-{socket.gethostname()}-{os.getpid()}")
    try:
        path.rename(aside)
        if aside.read_bytes() != held:  # it was taken over while we looked: put it back
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            return None
    except FileNotFoundError:
        return None
    finally:
        aside.unlink(missing_ok=True)
    return Claim(path, content) if create_whole(path, content) else None


def create_whole(path: Path, content: bytes) -> bool:
    """Make a file that no one else has made, in full and at once; whether it was us.

    Raises:
        FileNotFoundError: its folder is gone.
    """
    partial = path.with_name(f".{path.name}.partial-{socket.gethostname()}-{os.getpid()}")
    try:
        partial.write_bytes(content)
        try:
            os.link(partial, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            with path.open("xb") as file:  # a file system without hard links
                file.write(content)
        return True
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)


def sweep(folders: Iterable[Path], everything: bool = False) -> None:
    """Delete what dead processes of this host (or, ``everything``: anyone) left half-written."""
    host = socket.gethostname()
    for folder in folders:
        for path in folder.glob(".*.partial-*") if folder.is_dir() else ():
            owner, _, pid = path.name.rpartition(".partial-")[2].rpartition("-")
            is_ours = owner == host and pid.isdigit()
            if everything or (is_ours and started(int(pid)) is None):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def started(pid: int) -> int | None:
    """When a process of this host began, in clock ticks since the boot; None if it is dead.

    0 where the system does not tell.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _own_mark() -> bytes:
    mark = {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}
    return json.dumps(mark).encode()


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()


def _is_void(path: Path, content: bytes, stale_s: float) -> bool:
    try:
        mark = json.loads(content)
    except ValueError:  # cut off, where there are no hard links: only its age tells
        mark = {"host": None}
    if mark["host"] == socket.gethostname() and started(mark["pid"]) != mark["started"]:
        return True
    clock = path.parent / f".clock.partial-{socket.gethostname()}-{os.getpid()}"
    try:
        clock.touch()  # the file system's own clock, which may not be this host's
        return clock.stat().st_mtime - path.stat().st_mtime > stale_s
    except FileNotFoundError:
        return False
    finally:
        clock.unlink(missing_ok=True)
