"""How the published code draws a token: temperature, then top-k, then top-p, then one draw."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sampling_probabilities(
    logits: Float[Tensor, "*batch vocab"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "*batch vocab"]:
    """The distribution a token is drawn from, float32.

    Logits are divided by ``temperature`` (0: the arg-max alone); those below the ``top_k``-th
    value are dropped (ties with it stay); of the rest, in falling order, those that start beyond a
    cumulated probability of ``top_p`` are dropped, so the one that crosses it is kept.

    Raises:
        ValueError: a negative temperature, ``top_k`` below 1, or ``top_p`` outside [0, 1].
    """
    _check(temperature, top_k, top_p)
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ranked, rank = logits.sort(dim=-1, descending=True)
        beyond = ranked.softmax(-1).cumsum(-1) > top_p
        beyond = torch.cat([torch.zeros_like(beyond[..., :1]), beyond[..., :-1]], dim=-1)
        logits = logits.masked_fill(beyond.scatter(-1, rank, beyond), -torch.inf)
    return logits.softmax(-1)


@dataclass(frozen=True)
class Sampler:
    """Draws tokens from logits; the defaults are the published ones. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int | None = 1000
    top_p: float | None = 0.9
    generator: torch.Generator | None = None  # on the device of the logits; None only if greedy

    def __post_init__(self) -> None:
        _check(self.temperature, self.top_k, self.top_p)
        if self.temperature and self.generator is None:
            raise ValueError(
                f"temperature={self.temperature} draws at random; pass a seeded torch.Generator, "
                f"or temperature=0."
            )

    def __call__(self, logits: Float[Tensor, "*batch vocab"]) -> Int[Tensor, "*batch"]:
        if self.temperature == 0:
            return logits.argmax(-1)
        chances = sampling_probabilities(logits, self.temperature, self.top_k, self.top_p)
        drawn = torch.multinomial(chances.flatten(0, -2), 1, generator=self.generator)
        return drawn.view(logits.shape[:-1])


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is negative; use 0 for the arg-max.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} keeps no token; use 1 or more, or None for all.")
    if top_p is not None and not 0 <= top_p <= 1:
        raise ValueError(f"top_p={top_p} is no probability; use 0.9, or None for all.")


GREEDY = Sampler(temperature=0.0)
