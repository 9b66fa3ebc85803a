"""One process at a time works on a run of a study, however many were started on it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.claims import STALE_S, claim


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether the claim file at ``path`` is ours; if so it is kept alive until the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = claim(path)
    if mine is None:
        yield False
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(STALE_S / 5):
            mine.touch()

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield True
    finally:
        ended.set()
        mine.release()
