"""Which queries share a prefix, and how frame 0 is laid out for them.

All tracers of a group change few patches of frame 0. These come last, so that all that stands
before them is read once, for the clean frame and for every tracer of the group.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lras.grid import PatchGrid

TILE = 4  # patches; queries are grouped tile by tile, so that neighbors share what they change


class Group(NamedTuple):
    """Queries of one pair that share a prefix; frame 0 is laid out ``rest``, then ``tail``."""

    points: Int[Tensor, " queries"]  # numbers of the queries
    rest: Int[Tensor, " kept"]  # patches that no tracer of the group changes
    tail: Int[Tensor, " changed"]  # patches that some tracer changes

    @property
    def order0(self) -> Int[Tensor, " patches"]:
        return torch.cat([self.rest, self.tail])


def make_groups(
    changed: Bool[Tensor, "points patches"],
    order0: Int[Tensor, " patches"],
    grid: PatchGrid,
    num_revealed: int,
    max_group: int,
) -> list[Group]:
    """Groups of all queries that change a patch; of nearly equal size, neighbors together.

    ``order0`` says how the patches follow one another within ``rest`` and within ``tail``.
    """
    active = changed.any(1).nonzero()[:, 0]
    if not len(active):
        return []
    first = changed[active].int().argmax(1)  # the first patch it changes, row-major
    row, col = first // grid.cols, first % grid.cols
    tile = (row // TILE) * grid.cols + col // TILE
    nearby = active[(tile * grid.num_patches + first).argsort(stable=True)]
    size = group_size(changed[active].sum(1).float().mean().item(), grid, num_revealed)
    count = math.ceil(len(nearby) / min(size, max_group))
    groups = []
    for points in nearby.tensor_split(count):
        in_tail = changed[points].any(0)[order0]
        groups.append(Group(points, order0[~in_tail], order0[in_tail]))
    return groups


def group_size(changed_patches: float, grid: PatchGrid, num_revealed: int) -> int:
    """Queries per group for which the tokens a query costs are fewest.

    A larger group shares the prefix and the clean prediction among more, but every query reads the
    changed patches of all: tail * g + shared / g tokens are fewest at g = sqrt(shared / tail).
    """
    codes, asked = grid.codes_per_patch, grid.num_patches - num_revealed
    shared = grid.num_patches * codes + num_revealed * (1 + codes) + asked
    return max(1, round(math.sqrt(shared / (changed_patches * codes))))
