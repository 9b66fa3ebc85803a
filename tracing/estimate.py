"""What a question will take, said before it is asked: tokens, and memory within the bound."""

from dataclasses import dataclass
from typing import Any

import torch

from lras.grid import PatchGrid
from tracing.engine import LOGITS, KLEngine, check_bound
from tracing.layout import group_size

LOGIT_BYTES = 24  # in float32, in float64 on a CPU, and as the terms of the divergence


@dataclass(frozen=True)
class Estimate:
    """Of frame pairs with so many queries each; ``memory_bytes`` bounds what tracing adds."""

    queries: int
    tokens_per_query: float
    tokens_in_flight: int
    memory_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.queries} queries a frame pair, {self.tokens_per_query:,.0f} tokens a query, at "
            f"most {self.tokens_in_flight:,} tokens in flight: {self.memory_bytes / 1e9:.2f} GB"
        )


def estimate(
    engine: KLEngine,
    frame_hw: tuple[int, int],
    queries: int,
    device: torch.device | str,
    pairs: int = 1,
    guises: int = 1,
) -> Estimate:
    """For ``pairs`` of frames of a size in px that are traced in one call.

    A tracer is taken to change one patch if isolated, else six; ``guises`` of the frames are asked
    about in turn, so they cost tokens and no memory.

    Raises:
        ValueError: the bound on tokens is too small for one query.
    """
    model, cfg = engine.model, engine.cfg
    grid = PatchGrid(*frame_hw, model.patch_px, model.code_px)
    revealed = round(cfg.reveal_ratio * grid.num_patches)
    changed = 1 if cfg.isolated else 6
    bound = engine.engine.max_tokens_on(torch.device(device), model.token_bytes)
    size = group_size(float(changed), grid, revealed)
    group = min(engine.engine.max_group, size, max(1, queries))
    tail = min(grid.num_patches, group * changed)
    held, fork = engine.tokens(grid, revealed, tail)
    check_bound(bound, held + fork, grid)
    hidden = grid.num_patches - revealed
    read = grid.codes_per_patch if cfg.read_out == "all" else 1
    per_query = fork * (1 if cfg.search != "full" else cfg.num_masks)
    per_query += (held + cfg.num_masks * hidden * read) / group
    groups = pairs * -(-max(1, queries) // group)
    together = min(groups, max(1, bound // (held + group * fork)))  # side by side
    logits = 2 * together * hidden * read * model.num_columns + 2 * LOGITS
    in_flight = min(bound, together * (held + group * fork))
    memory = in_flight * model.token_bytes + logits * LOGIT_BYTES // 2
    return Estimate(queries, guises * per_query, in_flight, memory)


def engine_within(tracer: Any) -> KLEngine | None:
    """The engine inside tracers that are built round one (of a zoom, that of the whole frames)."""
    while tracer is not None and not isinstance(tracer, KLEngine):
        tracer = getattr(tracer, "tracer", None) or getattr(tracer, "on_whole", None)
    return tracer
