"""``study.json``: what one finished run of a study says of itself, for whoever fits laws to many.

A number that is not finite (a loss that diverged) stands as null in the file and is NaN here.
"""

import json
import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from data.index import write_whole

CARD = "study.json"
SCHEMA = 1
AGAIN = "give the study's command again with this file deleted, and it is made anew"
POSITIVE = ("blocks", "tokens", "flops", "zero_epe_px")  # laws and ratios divide by these


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Weights of the predictor, ``embeddings`` being all that is neither block nor head."""

    blocks: int
    embeddings: int
    head: int  # 0 where it is tied to the embeddings
    total: int


@dataclass(frozen=True, kw_only=True)
class SetFigures:
    """A set of held-out queries at the end of training."""

    points: int  # visible ones, over which errors are pooled
    epe_px: float
    epe_ci95_px: tuple[float, float]  # bootstrap over frame pairs
    ad_px: float  # at 256x256
    delta_avg: float
    hit: float
    zero_epe_px: float  # of no motion
    floor_px: float  # of a perfect arg-max


@dataclass(frozen=True, kw_only=True)
class CurveFigures:
    """A set of the probe while training went on."""

    epe_px: float
    zero_epe_px: float
    hit: float


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One probe."""

    step: int
    tokens: int
    flops: float
    sets: dict[str, CurveFigures]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One run: what was asked for, what was spent, what came of it."""

    schema: int = SCHEMA
    size: str
    seed: int
    parameters: Parameters
    budget: dict[str, float]  # {"tokens": ...} or {"flops": ...}
    tokens: int  # of all training sequences, over all ranks
    flops: float  # forward and backward, causal convention
    steps: int
    seconds: float  # of training, probes not counted
    loss_nats: float  # per code of held-out scenes
    sets: dict[str, SetFigures]
    curve: tuple[CurvePoint, ...]
    git_sha: str
    machine: str
    command: str

    def write(self, path: Path) -> None:
        """The card whole, or nothing."""
        text = json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)
        write_whole(path, text.encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> "Card":
        """The card in that file.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is no card, of another schema, or what cannot be 0 is.
        """
        try:
            plain = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error}); {AGAIN}.") from error
        if isinstance(plain, dict) and plain.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(
                f"{path}: field schema is {plain['schema']} and this code reads {SCHEMA}; {AGAIN}."
            )
        card = _of_kind(cls, plain, path, "")
        if list(card.budget) not in (["tokens"], ["flops"]):
            raise ValueError(
                f"{path}: field budget holds {sorted(card.budget)}, expected tokens or flops; "
                f"{AGAIN}."
            )
        _check_positive(plain, path)
        return card


def _of_kind(kind: Any, value: Any, path: Path, field: str) -> Any:
    """``value`` of a JSON file as ``kind``: a dataclass, a number, a text, or many of these."""
    if is_dataclass(kind):
        return _record(kind, value, path, field)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is dict:
        _expect(isinstance(value, dict), "an object", value, path, field)
        return {k: _of_kind(inner[1], v, path, f"{field}.{k}") for k, v in value.items()}
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, path, field)
        kinds = [inner[0]] * len(value) if inner[-1] is ... else list(inner)
        _expect(len(value) == len(kinds), f"{len(kinds)} numbers", value, path, field)
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(_of_kind(k, v, path, f"{field}.{i}") for i, (k, v) in pairs)
    if kind is float:
        if value is None:
            return math.nan
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number, "a number", value, path, field)
        return float(value)
    whole = isinstance(value, kind) and not isinstance(value, bool)
    _expect(whole, {int: "a whole number", str: "a text"}[kind], value, path, field)
    return value


def _record(kind: type, value: Any, path: Path, field: str) -> Any:
    _expect(isinstance(value, dict), "an object", value, path, field or "(the whole file)")
    known = {each.name: each.type for each in fields(kind)}
    for name in known.keys() ^ value.keys():
        what = "is missing" if name in known else "is not known"
        raise ValueError(f"{path}: field {_joined(field, name)} {what}; {AGAIN}.")
    made = {
        name: _of_kind(each, value[name], path, _joined(field, name))
        for name, each in known.items()
    }
    return kind(**made)


def _check_positive(plain: dict[str, Any], path: Path) -> None:
    """Raise ValueError where a number is not above 0 (or is null) that must be; errors may be."""
    found = {"parameters": plain["parameters"], "": plain}
    found |= {f"sets.{name}": figures for name, figures in plain["sets"].items()}
    for place, point in enumerate(plain["curve"]):
        own = point["sets"].items()
        found |= {f"curve.{place}.sets.{name}": figures for name, figures in own}
    asked = [(at, key, each[key]) for at, each in found.items() for key in POSITIVE if key in each]
    for at, key, value in [*asked, *(("budget", *each) for each in plain["budget"].items())]:
        holds = value is not None and 0 < value < math.inf
        _expect(holds, "a number above 0", value, path, _joined(at, key))


def _expect(holds: bool, what: str, value: Any, path: Path, field: str) -> None:
    if not holds:
        raise ValueError(f"{path}: field {field} is {value!r}, expected {what}; {AGAIN}.")


def _joined(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _finite(value: Any) -> Any:
    """Plain data with null in place of numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
