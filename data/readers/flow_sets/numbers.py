"""File names that end in a number, and the name of the next frame."""

import re
from pathlib import Path

ENDS = re.compile(r"(.*?)(\d+)")


def shifted(stem: str, step: int) -> str:
    """The stem with its last number changed by ``step``, as many digits as before.

    >>> shifted("frame_0009", 1)
    'frame_0010'
    """
    before, number = parts(stem)
    return f"{before}{int(number) + step:0{len(number)}d}"


def parts(stem: str) -> tuple[str, str]:
    """What stands before the last number, and that number.

    Raises:
        ValueError: the stem does not end in a number.
    """
    found = ENDS.fullmatch(stem)
    if found is None:
        raise ValueError(f"{stem} does not end in the number of a frame; leave such files out.")
    return found[1], found[2]


def beside(path: Path, step: int) -> Path:
    """The file of the frame ``step`` later in the same folder."""
    return path.with_name(shifted(path.stem, step) + path.suffix)
