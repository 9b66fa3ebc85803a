"""Values out of files that strangers wrote, as text of bounded length.

``repr`` of a few nested containers that hold one another many times over never ends.
"""

import argparse
import reprlib
from typing import Any

import torch


class _Short(reprlib.Repr):
    """Cuts long and deeply nested containers; of an object it knows nothing of, only the type."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong = 4, 200, 40
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = 16

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, bool | float | complex | torch.dtype | None):
            return repr(x)
        return f"<{type(x).__name__}>"

    def repr_Namespace(self, x: argparse.Namespace, level: int) -> str:
        return self.repr_dict(vars(x), level)


def shown(value: Any, limit: int = 200) -> str:
    """``repr`` of a value, at most ``limit`` characters of it.

    >>> shown((1, "a", [2.5, None]))
    "(1, 'a', [2.5, None])"
    >>> shown("a" * 9, limit=5)
    "'aaaa..."
    """
    text = _SHORT.repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


_SHORT = _Short()
