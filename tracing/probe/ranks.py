"""The probe's work split over ranks. Ranks meet once, when all are done, however uneven it was."""

import logging
from collections.abc import Callable, Sequence

import torch.distributed as dist

from tracing.probe.scores import Answer

log = logging.getLogger(__name__)


def rank_and_world() -> tuple[int, int]:
    """This process among its peers; (0, 1) where there are none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def answers_of_all_ranks(
    parts: Sequence[int], trace: Callable[[int], Answer]
) -> tuple[list[Answer], str]:
    """Answers to all parts, in order, the same list on every rank; and what went wrong, if it did.

    Rank r traces parts r, r + world, ... A part is always traced whole and by itself, so an
    answer does not depend on the number of ranks. A rank whose tracing fails still comes to the
    meeting, and says why there.
    """
    rank, world = rank_and_world()
    own: list[Answer] = []
    problem = ""
    try:
        own = [trace(part) for part in parts[rank::world]]
    except (RuntimeError, ValueError) as error:  # out of memory is a RuntimeError too
        problem = f"{type(error).__name__} on rank {rank}: {str(error).strip().splitlines()[0]}"
    gathered: list = [(own, problem)]
    if world > 1:
        gathered = [None] * world
        dist.all_gather_object(gathered, (own, problem))
    problems = "; ".join(said for _, said in gathered if said)
    answers = sorted((a for theirs, _ in gathered for a in theirs), key=lambda a: a.part)
    return ([], problems) if problems else (answers, "")
