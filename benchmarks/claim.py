"""What a promise is, and how it is judged: a figure against a target.

A quick promise measures its figure on the spot. A long one reads it from a result file. Whatever
goes wrong while a figure is being fetched is a FAIL with its reason; only a figure that nobody has
measured yet is NOT MEASURED.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

COMPARE = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}


class NotMeasuredError(Exception):
    """The figure does not exist yet; the message says what would make it."""


@dataclass(frozen=True)
class Figure:
    """A measured number, and in a few words what it was made of."""

    value: float
    note: str = ""


@dataclass(frozen=True)
class Target:
    """``Target("<=", 0.4)``: how the figure must compare with the number."""

    compare: str
    number: float
    unit: str = ""

    def __post_init__(self) -> None:
        if self.compare not in COMPARE:
            raise ValueError(f"compare={self.compare!r} is none of {', '.join(COMPARE)}.")

    def met_by(self, value: float) -> bool:
        """NaN and infinity meet no target."""
        return math.isfinite(value) and COMPARE[self.compare](value, self.number)

    def __str__(self) -> str:
        return f"{self.compare} {self.number:g} {self.unit}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One promise. ``measure`` returns the figure or raises ``NotMeasuredError``.

    ``result`` names the result file the figure is read from; empty for a quick promise.
    """

    what: str
    target: Target
    measure: Callable[[], Figure]
    result: str = ""


@dataclass(frozen=True)
class Verdict:
    """One line of the answer; ``word`` is PASS, FAIL or NOT MEASURED."""

    word: str
    what: str
    target: str
    figure: str = "-"
    note: str = ""

    def __str__(self) -> str:
        line = f"{self.word:<12}  {self.what:<66}  {self.figure:>9}  {self.target:<12}"
        return f"{line}  {self.note}".rstrip()


def judge(claim: Claim) -> Verdict:
    target = str(claim.target)
    try:
        figure = claim.measure()
    except NotMeasuredError as reason:
        return Verdict("NOT MEASURED", claim.what, target, note=f"({reason})")
    except Exception as error:  # one broken promise must not hide the others
        return Verdict("FAIL", claim.what, target, note=f"({type(error).__name__}: {error})")
    word = "PASS" if claim.target.met_by(figure.value) else "FAIL"
    note = f"({figure.note})" if figure.note else ""
    return Verdict(word, claim.what, target, f"{figure.value:.4g}", note)
