"""Pairs with dense flow as parts of a task: points drawn from them, and the whole truth beside."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange

from data.coords import pixel_centers
from data.readers.pair_files import PairFiles, read_pair
from data.types import FlowPair, PointPairs
from tracing.benchmarks.evaluation import on_device


@dataclass(frozen=True)
class FlowPart(PointPairs):
    """Points of one pair, and the pair they were drawn from (which stays on the CPU)."""

    truth: FlowPair | None = None


def point_pairs_of(pair: FlowPair, points_per_pair: int, seed: int) -> FlowPart:
    """Points uniform over pixels with known flow whose target is in frame 1 and, if known, visible.

    Points are pixel centers, all different; a pair with too few is padded (``valid`` False).
    """
    height, width = pair.valid.shape
    centers = pixel_centers(height, width).flatten(0, 1)
    target = centers + rearrange(pair.flow, "uv h w -> (h w) uv")
    inside = ((target >= 0) & (target < target.new_tensor([width, height]))).all(-1)
    eligible = pair.valid.flatten() & inside
    if pair.visible is not None:
        eligible &= pair.visible.flatten()
    index = eligible.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chosen = index[torch.randperm(len(index), generator=generator)[:points_per_pair]]
    valid = torch.arange(points_per_pair) < len(chosen)
    chosen = F.pad(chosen, (0, points_per_pair - len(chosen)))
    return FlowPart(
        frame0=pair.frame0[None],
        frame1=pair.frame1[None],
        points=centers[chosen][None],
        target=target[chosen][None],
        visible=valid[None].clone(),
        valid=valid[None],
        name=pair.name,
        truth=pair,
    )


class FlowParts(Sequence[PointPairs]):
    """One part for each pair, read anew whenever it is asked for.

    Args:
        numbers: place of each pair in the whole set, by which its points are drawn; None: these
            are all.
    """

    def __init__(
        self,
        pairs: Sequence[PairFiles],
        points_per_pair: int,
        seed: int,
        device: str,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.pairs, self.points_per_pair = pairs, points_per_pair
        self.seed, self.device = seed, device
        self.numbers = range(len(pairs)) if numbers is None else numbers

    @property
    def names_of_parts(self) -> list[str]:
        """Names in order; nothing is read for them."""
        return [pair.name for pair in self.pairs]

    def only(self, names: Sequence[str]) -> "FlowParts":
        """The parts of these names, with the points they have here."""
        kept = [index for index, pair in enumerate(self.pairs) if pair.name in set(names)]
        pairs, numbers = [self.pairs[i] for i in kept], [self.numbers[i] for i in kept]
        return FlowParts(pairs, self.points_per_pair, self.seed, self.device, numbers)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> FlowPart:
        if not 0 <= index < len(self):
            raise IndexError(index)
        pair, seed = read_pair(self.pairs[index]), self.seed + self.numbers[index]
        return on_device(point_pairs_of(pair, self.points_per_pair, seed), self.device)
