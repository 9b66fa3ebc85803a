"""What a run's export says of its making, and what those say that it was started from.

Commands lose the folders of the machine they were typed on: a folder of another part of the lineage
becomes ``RUN1``, ``RUN2``, ..., in their order, and any other ``DIR/name``.
"""

import re
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from doors.estimate import num_processes, plan_of, total_tokens
from doors.training_note import data_in_words
from lras.checkpoint import read

FOLDER = re.compile(r"(?<![\w.~-])(?:~|\.\.?)?/[^\s'\",;:\])]+")
STARTS = ("init_from", "quantizer")  # keys of train.yaml that name another run


def lineage_of(run: Path) -> list[dict[str, Any]]:
    """The notes of all parts of a training, the oldest first, and this run's last.

    Raises:
        FileNotFoundError, ValueError: a run that it was started from is not there any more, or its
            export cannot be read.
    """
    runs = _with_ancestors(run, [])
    parts = [part for each in runs for part in _parts_of(each)]
    names = {str(each): f"RUN{number}" for number, each in enumerate(runs, start=1)}
    return [portable(part, names) for part in parts]


def portable(content: Any, names: dict[str, str]) -> Any:
    """Plain data without folders of this machine; ``names``: what known ones are called."""
    if isinstance(content, dict):
        return {key: portable(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [portable(value, names) for value in content]
    if not isinstance(content, str):
        return content
    words = [word for word in content.split(" ") if not word.startswith("hydra.run.dir=")]

    def renamed(found: re.Match) -> str:
        folder = found.group()
        return names.get(folder.rstrip("/")) or f"DIR/{Path(folder).name}"

    return FOLDER.sub(renamed, " ".join(words))


def config_of(run: Path) -> DictConfig:
    """The config a run was made with, as it stands in its folder.

    Raises:
        ValueError: there is none.
    """
    path = run / "config" / "resolved.yaml"
    if not path.is_file():
        raise ValueError(f"{run} holds no {path.relative_to(run)}; pass the folder of a run.")
    return OmegaConf.load(path)


def _with_ancestors(run: Path, known: list[Path]) -> list[Path]:
    if not (run / "config").is_dir():  # an export: it knows its own ancestors
        return [*known, run]
    cfg = config_of(run)
    for key in STARTS:
        if (start := cfg.get(key)) and Path(start) not in known:
            known = _with_ancestors(Path(start), known)
    return [*known, run]


def _parts_of(run: Path) -> list[dict[str, Any]]:
    note = read(run)[0].get("note", {})
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
