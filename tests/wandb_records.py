"""What a W&B run file holds, read with wandb's own record definitions.

The file is a LevelDB log: after 7 bytes of its own, blocks of 32 KiB hold fragments, each with its
checksum (4 bytes), length (2) and kind (1). wandb 0.31 brings no reader in Python, hence this one.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, FULL, LAST = 32_768, 7, 1, 4
WAIT_S = 20  # for the end of a run, which wandb may write after ``finish`` has returned


def records(path: Path) -> list[Record]:
    """Every whole record of a ``.wandb`` file, in order."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = list(_records(path))
        if any(record.HasField("exit") for record in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _records(path: Path) -> Iterator[Record]:
    content, place, collected = path.read_bytes(), HEADER, b""
    assert content[:4] == b":W&B", f"{path} is not a W&B run file"
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK  # the padding at the end of a block
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        if place + HEADER + length > len(content):
            return  # it is being written
        collected += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            yield Record.FromString(collected)
            collected = b""


def run_files(run_folder: Path) -> list[Path]:
    """The ``.wandb`` files of all parts of a run, oldest first."""
    return sorted((run_folder / "wandb").glob("*run-*/*.wandb"))


def history(path: Path) -> list[dict]:
    """One dict per ``wandb.Run.log``; pictures and tables stand as W&B's description of them."""
    return [_values(record.history.item) for record in records(path) if record.HasField("history")]


def summary(path: Path) -> dict:
    updates = [record.summary.update for record in records(path) if record.HasField("summary")]
    return {key: value for items in updates for key, value in _values(items).items()}


def config(path: Path) -> dict:
    updates = [record.config.update for record in records(path) if record.HasField("config")]
    return {key: value for items in updates for key, value in _values(items).items()}


def _values(items) -> dict:
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
