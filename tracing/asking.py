"""Queries of one frame pair, block by block; what is answered already is not asked for again.

``dense`` and ``tracking`` are made of these blocks. A ``Memory`` keeps each whole block, so that
work that was interrupted goes on where it stood.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracing.config import Traces
from tracing.consistency import ForwardBackward
from tracing.inputs import check_question, inside_frame

AskTracer = Callable[..., Traces]  # called as KLTracer is: with a batch axis, and a seed
Tell = Callable[[int, bool], None]  # points answered just now; whether from memory


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a tracer says of some queries of one frame pair, on the CPU."""

    xy: Float[Tensor, "points 2"]  # px in frame 1
    visible: Bool[Tensor, " points"]  # by the tracer's own rule
    peak_kl: Float[Tensor, " points"] | None = None  # nats
    return_px: Float[Tensor, " points"] | None = None  # see ForwardBackward
    seconds: float  # wall time inside the tracer


@runtime_checkable
class Memory(Protocol):
    """Where whole blocks of answers outlive an interruption."""

    def recall(self, key: str) -> Answers | None:
        """The block of that name, if it was kept."""
        ...

    def keep(self, key: str, answers: Answers) -> None:
        """Keep a block, whole or not at all."""
        ...


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How queries are asked for.

    ``back``: what was found is traced back to frame 0, see ``confidence_of`` for what that decides.
    ``block`` queries are asked for at a time, and kept as one by ``memory``.
    """

    seed: int = 0
    back: bool = False
    block: int = 64
    memory: Memory | None = None
    tell: Tell | None = None

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block={self.block}; ask for at least one query at a time.")


@torch.no_grad()
def ask(
    tracer: AskTracer,
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    points: Float[Tensor, "points 2"],
    seed: int = 0,
) -> Answers:
    """One call of the tracer."""
    start = time.perf_counter()
    traces = tracer(frame0[None], frame1[None], points[None], seed=seed)
    values = {
        name: None if (value := getattr(traces, name)) is None else value[0].cpu()
        for name in ("xy", "visible", "peak_kl", "return_px")
    }  # waits for the device, so the clock is right
    return Answers(**values, seconds=time.perf_counter() - start)


def ask_in_blocks(
    tracer: AskTracer,
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    points: Float[Tensor, "points 2"],
    name: str,
    how: Asking,
) -> Answers:
    """The answers to all points, in their order; block i is remembered as ``name``-i.

    All blocks share one seed, hence one set of reveal masks.

    Raises:
        ValueError: as ``check_queries``.
    """
    check_queries(points, frame0, frame1)
    if how.back and not isinstance(tracer, ForwardBackward):
        tracer = ForwardBackward(tracer, rule="peak_kl")
    blocks = []
    for number, part in enumerate(points.split(how.block)):
        key = f"{name}-{number:06d}"
        known = None if how.memory is None else how.memory.recall(key)
        answers = known or ask(tracer, frame0, frame1, part, how.seed)
        if how.memory is not None and known is None:
            how.memory.keep(key, answers)
        if how.tell is not None:
            how.tell(len(part), known is not None)
        blocks.append(answers)
    return joined(blocks)


def joined(blocks: list[Answers]) -> Answers:
    """The answers of all blocks one after the other; seconds add up."""
    values = {"seconds": sum(block.seconds for block in blocks)}
    for name in (field.name for field in fields(Answers) if field.name != "seconds"):
        parts = [getattr(block, name) for block in blocks]
        values[name] = None if parts[0] is None else torch.cat(parts)
    return Answers(**values)


def check_queries(
    points: Float[Tensor, "points 2"],
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
) -> None:
    """Refuse an empty list of queries, and what ``check_question`` refuses."""
    if not len(points):
        raise ValueError("there are no queries; ask for at least one point.")
    check_question(frame0[None], frame1[None], points[None])


def confidence_of(
    answers: Answers, frame_hw: tuple[int, int], return_px: float
) -> Float[Tensor, " points"]:
    """How sure it is that a point was found, in [0, 1]: 0.5 and more calls it visible.

    2^(-d / ``return_px``), d the px between the query and where its answer is traced back to: 1
    where the two meet, 0.5 where they are ``return_px`` apart. Without a way back it is 1. It is 0
    where the tracer itself says hidden, and where the answer is outside frame 1.
    """
    sure = torch.ones_like(answers.xy[:, 0])
    if answers.return_px is not None:
        sure = torch.exp2(-answers.return_px / return_px)
    found = answers.visible & inside_frame(answers.xy, frame_hw)
    return torch.where(found, sure, 0.0)


def threshold_px(tracer: AskTracer, return_px: float | None, otherwise: float) -> float:
    """``return_px`` as given; if not, the tracer's own if it traces back, or ``otherwise``."""
    if return_px is None and isinstance(tracer, ForwardBackward):
        return_px = tracer.return_px or None
    if return_px is not None and not return_px > 0:
        raise ValueError(f"return_px={return_px}; use a positive distance in px, such as 4.0.")
    judged = isinstance(tracer, ForwardBackward) and tracer.rule != "peak_kl"
    if judged and return_px is not None and return_px > tracer.return_px:
        raise ValueError(
            f"return_px={return_px} is more than the tracer's own {tracer.return_px}, beyond which "
            "it calls points hidden; raise tracer.return_px too."
        )
    return otherwise if return_px is None else return_px
