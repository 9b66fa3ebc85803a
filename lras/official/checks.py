"""One line per array: how far ours is from theirs, and whether that is near enough."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Any  # whatever np.asarray takes: tensors, arrays, lists, numbers

LOGITS = 1e-4  # largest difference of logits, hidden states and what is made of them
NEAR_TIE = 1e-4  # two logits this close may change places
KL_RELATIVE, KL_FLOOR = 1e-3, 1e-4  # relative difference, of divergences above the floor (nats)


@dataclass(frozen=True)
class Check:
    """``name`` is file:array; ``difference`` the largest one, or how many integers differ."""

    name: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        word = "PASS" if self.passed else "FAIL"
        line = f"{word}  {self.name:<46} {self.difference:9.2g}  (at most {self.tolerance:g})"
        return f"{line}  {self.note}".rstrip()


def close(
    name: str, ours: Values, theirs: Values, tolerance: float = LOGITS, note: str = ""
) -> Check:
    """Largest absolute difference; infinite where the shapes differ."""
    ours, theirs = (np.asarray(values, dtype=np.float64) for values in (ours, theirs))
    if ours.shape != theirs.shape:
        return Check(name, math.inf, tolerance, f"shape {ours.shape}, theirs {theirs.shape}")
    difference = np.abs(ours - theirs).max(initial=0.0)
    return Check(name, float(difference), tolerance, note)


def relative(
    name: str, ours: Values, theirs: Values, tolerance: float, floor: float = 0.0
) -> Check:
    """Largest difference as a share of theirs, or of ``floor`` where theirs is smaller."""
    ours, theirs = (np.asarray(values, dtype=np.float64) for values in (ours, theirs))
    if ours.shape != theirs.shape:
        return close(name, ours, theirs, tolerance)
    scale = np.maximum(np.abs(theirs), floor)
    share = np.abs(ours - theirs) / np.where(scale > 0, scale, 1.0)
    return Check(name, float(share.max(initial=0.0)), tolerance, "relative")


def exact(name: str, ours: Values, theirs: Values, excused: Values = False) -> Check:
    """How many integers differ, not counting those that are ``excused`` (bool, same shape)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return Check(name, math.inf, 0.0, f"shape {ours.shape}, theirs {theirs.shape}")
    differ = ours != theirs
    allowed = int((differ & excused).sum())
    note = f"{allowed} of {ours.size} excused, too close to call" if allowed else ""
    return Check(name, float((differ & ~np.asarray(excused)).sum()), 0.0, note)
