"""How often tracers changed a code, and at which attempt: one that changes none says nothing."""

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor

from tracing.planting import ATTEMPTS


def flip_shares(
    flipped: Int[Tensor, " points"], attempt: Int[Tensor, " points"] | None
) -> dict[str, float]:
    """Figures of a row of results.json.

    ``mean_codes`` is the mean number of changed codes; the others are shares of the points:
    ``silent`` where none changed, ``dark`` and ``wide`` where a second or third attempt did it.
    """
    shares = {
        "mean_codes": flipped.double().mean().item(),
        "silent": (flipped == 0).double().mean().item(),
    }
    for name in ("dark", "wide"):
        tried = None if attempt is None else attempt == ATTEMPTS.index(name)
        shares[name] = 0.0 if tried is None else tried.double().mean().item()
    return shares


def flips_line(name: str, flips: Mapping[str, float] | None) -> str | None:
    """One line for below a table; None if every tracer flipped codes at once."""
    if not flips:
        return None
    words = {"dark": "dark", "wide": "wide", "silent": "flipped nothing"}
    said = [f"{100 * flips[key]:.1f} % {word}" for key, word in words.items() if flips[key] > 0]
    return f"{name}: tracers {', '.join(said)}" if said else None
