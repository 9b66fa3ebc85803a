"""What the answers in a folder were given to, so that those to another question never mix in."""

import json
from pathlib import Path
from typing import Any

from data.index import write_whole

ASKED = "asked.json"


def check_asked(folder: Path, asked: dict[str, Any], free: tuple[str, ...] = ()) -> bool:
    """Whether the folder holds a note of the same question; False: no note at all.

    Args:
        asked: JSON-ready; all that the answers depend on, and more.
        free: beginnings of the dotted keys of ``asked`` that may change before a run goes on.

    Raises:
        ValueError: the folder holds answers to something else, or its note is damaged.
    """
    note = folder / ASKED
    if not note.is_file():
        return False
    try:
        theirs = _flat(json.loads(note.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{note} is damaged ({error}); delete {folder} to ask again.") from error
    ours = _flat(json.loads(json.dumps(asked)))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key) and not key.startswith(free):
            raise ValueError(
                f"{folder} holds answers to another question: {key} was {theirs.get(key)} and is "
                f"{ours.get(key)} now; ask as before, or in another folder: hydra.run.dir=DIR."
            )
    return True


def note_asked(folder: Path, asked: dict[str, Any]) -> None:
    """Write the note, and the folder where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / ASKED, json.dumps(asked, indent=1).encode())


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict):
        return {prefix: nested}
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
