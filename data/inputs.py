"""Which videos there are: a folder, a text list, a glob or one file, as a sorted list of names."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from data.video import printable

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")


@dataclass(frozen=True)
class Inputs:
    """Videos by their names below ``root``, sorted; '/' between folders on every system."""

    root: Path
    names: tuple[str, ...]

    def path(self, number: int) -> Path:
        return self.root / self.names[number]


def find_inputs(videos: str) -> Inputs:
    """The videos that ``videos`` stands for.

    A folder is searched with its subfolders for everything that has the suffix of a video, hidden
    names left out; links to folders are not followed, so links cannot run in circles. A .txt file
    is a list: one path a line, from the list's folder unless absolute; blank lines and lines that
    begin with # do not count. Anything with * ? [ ] is a glob (** = any folders); folders that it
    matches are searched. Anything else is one video. What is listed need not be readable: that is
    found out, and told, when its turn comes.

    Raises:
        ValueError: there is nothing of that name, or no video in it.
    """
    given = Path(videos)
    if given.is_dir():
        paths = list(_search(given))
        if not paths:
            raise ValueError(f"videos={printable(given)} holds no video ({' '.join(SUFFIXES)}).")
        return _inputs(given, paths)
    if given.suffix.lower() == ".txt" and given.is_file():
        paths = [path for line in _lines(given) for path in _expand(given.parent / line)]
        if not paths:
            raise ValueError(f"videos={printable(given)} lists no video; write one path a line.")
    elif has_magic(videos) and not given.exists():
        paths = [path for match in glob(videos, recursive=True) for path in _expand(Path(match))]
        if not paths:
            raise ValueError(f"videos={videos} matches no file; quote it, and check its folder.")
    elif given.is_file():
        paths = [given]
    else:
        raise ValueError(
            f"videos={printable(given)} is not a folder, a file or a glob that matches; pass one "
            f"that holds or lists video files."
        )
    paths = [Path(os.path.abspath(path)) for path in paths]
    return _inputs(Path(os.path.commonpath([path.parent for path in paths])), paths)


def _search(folder: Path) -> Iterable[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        for name in (*names, *links):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(where) / name


def _expand(path: Path) -> Iterable[Path]:
    return _search(path) if path.is_dir() else [path]


def _lines(file: Path) -> list[str]:
    lines = [os.fsdecode(line).strip() for line in file.read_bytes().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _inputs(root: Path, paths: Iterable[Path]) -> Inputs:
    return Inputs(root, tuple(sorted({path.relative_to(root).as_posix() for path in paths})))
