"""What a run's export says of its making, and what those say that it was started from.

Commands lose the folders of the machine they were typed on: a folder of another part of the lineage
becomes ``RUN1``, ``RUN2``, ..., in their order, and any other ``DIR/name``.
"""

import os
import re
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from doors.estimate import num_processes, plan_of, total_tokens
from doors.training_note import data_in_words
from lras.checkpoint import read

FOLDER = re.compile(r"(?<![\w.~-])(?:~|\.\.?)?/[^\s'\",;:\])]+")
ROOTED = ("/", "~", "./", "../")  # a name that begins otherwise is a folder only as a value
STARTS = ("init_from", "quantizer")  # keys of train.yaml that name another run


def lineage_of(run: Path) -> list[dict[str, Any]]:
    """The notes of all parts of a training, the oldest first, and this run's last.

    Raises:
        FileNotFoundError, ValueError: a run that it was started from is not there any more, or its
            export cannot be read.
    """
    known: dict[Path, set[str]] = {}
    _add(run, known)
    parts: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for folder, spellings in known.items():
        parts += _parts_of(folder)
        names |= {each: f"RUN{len(parts)}" for each in spellings}
    return [portable(part, names) for part in parts]


def portable(content: Any, names: dict[str, str]) -> Any:
    """Plain data without folders of this machine; ``names``: what known ones are called.

    >>> portable("init_from=runs/a/ root=/b/clips", {"runs/a": "RUN1"})
    'init_from=RUN1 root=DIR/clips'
    """
    if isinstance(content, dict):
        return {key: portable(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [portable(value, names) for value in content]
    if not isinstance(content, str):
        return content
    words = [word for word in content.split(" ") if not word.startswith("hydra.run.dir=")]
    text = " ".join(words)
    for name in sorted(names, key=len, reverse=True):  # a run may lie in another's folder
        text = _spelled(name).sub(names[name], text)
    return FOLDER.sub(lambda found: f"DIR/{Path(found.group()).name}", text)


def config_of(run: Path) -> DictConfig:
    """The config a run was made with, as it stands in its folder.

    Raises:
        ValueError: there is none.
    """
    path = run / "config" / "resolved.yaml"
    if not path.is_file():
        raise ValueError(f"{run} holds no {path.relative_to(run)}; pass the folder of a run.")
    return OmegaConf.load(path)


def _spelled(name: str) -> re.Pattern:
    """That name whole, or with what lies in it; one that could be any word stands after ``=``."""
    before = r"(?<![\w./~-])" if name.startswith(ROOTED) else r"(?<=[=\[,'\"])(?:\./)?"
    after = r"(?:(?![^\s'\",;:\])])|/(?![^\s'\",;:\])])|(?=/))"
    return re.compile(f"{before}{re.escape(name)}{after}")


def _add(run: Path, known: dict[Path, set[str]]) -> None:
    """Add the run to ``known``, its ancestors before it: how each is spelled, by its true path."""
    if (run / "config").is_dir():  # else an export: it knows its own ancestors
        cfg = config_of(run)
        for start in filter(None, map(cfg.get, STARTS)):
            _add(Path(start), known)
    true = run.resolve()
    spellings = known.setdefault(true, set())
    spellings |= {str(run), str(run.absolute()), str(true), os.path.relpath(true)} - {".", ".."}


def _parts_of(run: Path) -> list[dict[str, Any]]:
    note = read(run)[0].get("note", {})
    if isinstance(note.get("made_from"), dict):  # once the name of what decides a quantizer
        note["decided_by"] = note.pop("made_from")
    before = note.pop("made_from", [])
    if "tokens" not in note and (run / "config").is_dir():  # written before exports said it
        note |= _counted(run, note["step"])
    return [*before, note]


def _counted(run: Path, steps: int) -> dict[str, Any]:
    """Data in words and tokens, by the config of the run."""
    cfg = config_of(run)
    data = instantiate(cfg.data, _convert_="object")
    model = instantiate(cfg.model.predictor.cfg)
    parts = cfg.trainer.get("accumulate_grad_batches", 1)
    plan = plan_of(data, steps, model, num_processes(cfg), parts)
    return {"data": data_in_words(data, plan), "tokens": total_tokens(plan, model)}
