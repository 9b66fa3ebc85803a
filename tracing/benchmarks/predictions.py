"""What tracers answered, on disk: one file for each tracer and unit (a video or a frame pair).

    <folder>/asked.json              what the answers were given to
    <folder>/<tracer>/<unit>.npz     keys (n,) str, seconds (n,) float64, and <i>/<field> of Traces

Every file is written whole, at most every ``flush_s`` seconds and when its unit is over, so a kill
costs no more than that. A key says the seed and the question, so nothing is ever counted twice, and
a question that changed is asked anew.
"""

import io
import time
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from data.index import write_whole
from tracing.benchmarks.asked import check_asked, note_asked
from tracing.config import Traces

FLUSH_S = 20.0
LEFT_OVER_S = 60.0  # a partial file older than this is one of a process that was killed
KEPT = tuple(field.name for field in fields(Traces) if field.name != "maps")


class Key(NamedTuple):
    """One question: what was asked, and with which seed."""

    seed: int
    digest: str

    def __str__(self) -> str:
        return f"{self.seed}-{self.digest}"


class Given(NamedTuple):
    """One answer, on the CPU."""

    traces: Traces
    seconds: float  # wall time inside the tracer


class Predictions:
    """The answers of all tracers of one evaluation.

    Args:
        asked: JSON-ready; all that the answers depend on, and more.
        free: beginnings of the dotted keys of ``asked`` that may change before a run goes on.

    Raises:
        ValueError: the folder holds answers to something else.
    """

    def __init__(
        self,
        folder: Path,
        asked: dict[str, Any],
        free: tuple[str, ...] = (),
        flush_s: float = FLUSH_S,
    ) -> None:
        self.folder, self.asked, self.flush_s = folder, asked, flush_s
        self.noted = check_asked(folder, asked, free)
        self.opened: list[TracerAnswers] = []
        for partial in folder.glob("*/.*.partial-*"):
            if time.time() - partial.stat().st_mtime > LEFT_OVER_S:
                partial.unlink(missing_ok=True)

    def of(self, tracer: str) -> "TracerAnswers":
        """Those of one tracer, by its name."""
        self.opened.append(TracerAnswers(self, self.folder / file_name(tracer)))
        return self.opened[-1]

    def note(self) -> None:
        """Say what is asked, before the first answer is kept."""
        if not self.noted:
            note_asked(self.folder, self.asked)
            self.noted = True

    def flush(self) -> None:
        """Write what is not on disk yet."""
        for answers in self.opened:
            answers.flush()


class TracerAnswers:
    """One tracer's answers; those of one unit at a time are in memory."""

    def __init__(self, predictions: Predictions, folder: Path) -> None:
        self.predictions, self.folder = predictions, folder
        self.unit: str | None = None
        self.known: dict[Key, Given] = {}
        self.unsaved, self.saved_at = False, time.monotonic()

    def recall(self, unit: str, key: Key, any_seed: bool = False) -> Given | None:
        """What was answered; ``any_seed``: whichever seed it was asked with.

        Raises:
            ValueError: the unit's file is damaged.
        """
        self._open(unit)
        if not any_seed:
            return self.known.get(key)
        return next((given for k, given in self.known.items() if k.digest == key.digest), None)

    def keep(self, unit: str, key: Key, given: Given) -> None:
        """Remember an answer; it is on disk after ``flush`` or ``flush_s`` seconds."""
        self._open(unit)
        if not self.unsaved:
            self.unsaved, self.saved_at = True, time.monotonic()
        self.known[key] = given
        if time.monotonic() - self.saved_at >= self.predictions.flush_s:
            self.flush()

    def flush(self) -> None:
        """Write the unit's file if it holds anything new."""
        if not self.unsaved or self.unit is None:
            return
        self.predictions.note()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(self.unit), _packed(self.known))
        except OSError as error:
            raise ValueError(
                f"answers cannot be kept in {self.folder} ({error.strerror or error}); make room "
                "there, and the same command goes on."
            ) from error
        self.unsaved = False

    def _open(self, unit: str) -> None:
        if unit == self.unit:
            return
        self.flush()
        path = self._path(unit)
        self.known = _unpacked(path) if path.is_file() else {}
        self.unit = unit

    def _path(self, unit: str) -> Path:
        return self.folder / f"{file_name(unit)}.npz"


def file_name(name: str) -> str:
    """A name as a file may have it on every system; different names stay different."""
    return quote(name, safe=" @+=,()")


def _packed(known: dict[Key, Given]) -> bytes:
    arrays: dict[str, np.ndarray] = {
        "keys": np.array([str(key) for key in known]),
        "seconds": np.array([given.seconds for given in known.values()], np.float64),
    }
    for index, given in enumerate(known.values()):
        for name in KEPT:
            if isinstance(value := getattr(given.traces, name), Tensor):
                arrays[f"{index}/{name}"] = value.numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # a field is megabytes
    return buffer.getvalue()


def _unpacked(path: Path) -> dict[Key, Given]:
    try:
        known: dict[Key, Given] = {}
        with np.load(path, allow_pickle=False) as stored:
            there = set(stored.files)
            seconds = stored["seconds"].tolist()
            for index, key in enumerate(stored["keys"].tolist()):
                values = {
                    name: torch.from_numpy(stored[f"{index}/{name}"])
                    for name in KEPT
                    if f"{index}/{name}" in there
                }
                seed, digest = key.rsplit("-", 1)
                known[Key(int(seed), digest)] = Given(Traces(**values), seconds[index])
        return known
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to trace again.") from error
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to trace again.") from error
