"""Answers on disk, a file a block: an interrupted run of ``doors.asking`` goes on from them."""

import io
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.index import write_whole
from tracing.asking import Answers
from tracing.benchmarks.asked import check_asked, note_asked


class Kept:
    """The ``Memory`` of one run: a folder of blocks, and a note of what was asked.

    Args:
        asked: JSON-ready; all that the answers depend on, and more.
        free: beginnings of the dotted keys of ``asked`` that may change before a run goes on.

    Raises:
        ValueError: the folder holds answers to something else.
    """

    def __init__(self, folder: Path, asked: dict[str, Any], free: tuple[str, ...] = ()) -> None:
        self.folder = folder
        if not check_asked(folder, asked, free):
            note_asked(folder, asked)

    def recall(self, key: str) -> Answers | None:
        """The block of that name.

        Raises:
            ValueError: its file is damaged.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                values = {name: torch.from_numpy(stored[name]) for name in stored.files}
            return Answers(**values | {"seconds": values["seconds"].item()})
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to ask again.") from error

    def keep(self, key: str, answers: Answers) -> None:
        arrays = {field.name: getattr(answers, field.name) for field in fields(Answers)}
        buffer = io.BytesIO()
        np.savez(buffer, **{k: np.asarray(v) for k, v in arrays.items() if v is not None})
        write_whole(self._path(key), buffer.getvalue())

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"
