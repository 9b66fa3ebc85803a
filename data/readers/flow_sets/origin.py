"""Where a data set comes from, and the sentence said when it is not there or laid out otherwise."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN = 6  # names of what was found instead


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a user must know to get a data set and put it in place."""

    title: str
    task: str  # task=... of eval.py
    files: str  # what to download, with its size where that is known
    page: str
    licence: str
    holds: str  # what the folder to pass holds

    def root(self, root: str | Path | None) -> Path:
        """The folder, if it is there.

        Raises:
            ValueError: none was passed, or it does not exist.
        """
        if root is not None and Path(root).is_dir():
            return Path(root)
        where = "task.root says no folder" if root is None else f"there is no folder {root}"
        raise ValueError(
            f"{self.title} is not there ({where}): download {self.files} from {self.page} "
            f"({self.licence}), unpack, and type task={self.task} task.root=DIR, where DIR holds "
            f"{self.holds}."
        )

    def folder(self, root: Path, *inside: str) -> Path:
        """The first of the folders ``inside`` (relative to ``root``) that is there.

        Raises:
            ValueError: none of them is.
        """
        for name in inside:
            if (root / name).is_dir():
                return root / name
        raise ValueError(self._otherwise(root, " or ".join(inside)))

    def some(self, found: Iterable[Path], folder: Path, pattern: str) -> list[Path]:
        """The paths found, sorted.

        Raises:
            ValueError: there are none.
        """
        paths = sorted(found)
        if not paths:
            raise ValueError(self._otherwise(folder, pattern))
        return paths

    def one_of(self, key: str, value: str, known: Sequence[str]) -> str:
        """The value, if it is known.

        Raises:
            ValueError: it is not.
        """
        if value not in known:
            raise ValueError(
                f"task.{key}={value} is not known for task={self.task}; use {' or '.join(known)}."
            )
        return value

    def _otherwise(self, folder: Path, expected: str) -> str:
        names = sorted(path.name for path in folder.iterdir())
        more = ", ..." if len(names) > SHOWN else ""
        found = ", ".join(names[:SHOWN]) + more if names else "nothing"
        return (
            f"{folder} is not laid out as {self.title}: expected {expected} in it, found {found}; "
            f"pass the folder that holds {self.holds} as task.root=DIR."
        )
