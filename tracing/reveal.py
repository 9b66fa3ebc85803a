"""Which patches of frame 1 the predictor is shown, and in which order both frames are laid out.

Drawn from a seed alone, once for all queries and pairs of a call: never from a target.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """A stack of reveal masks, each with the sequence orders of the two frames."""

    reveal: Bool[Tensor, "*pairs masks patches"]  # True = shown
    order0: Int[Tensor, "*pairs masks patches"]
    order1: Int[Tensor, "*pairs masks patches"]

    def __getitem__(self, pair: int) -> "Masks":
        """The masks of one pair."""
        return Masks(self.reveal[pair], self.order0[pair], self.order1[pair])

    def to(self, device: torch.device) -> "Masks":
        return Masks(self.reveal.to(device), self.order0.to(device), self.order1.to(device))


SALT = 2**32  # scenes and query points of the same seed must not share a stream with the masks


def draw_masks(
    num_patches: int,
    num_masks: int,
    reveal_ratio: float,
    seed: int,
    keep_hidden: Bool[Tensor, " patches"] | None = None,
) -> Masks:
    """Random masks that each reveal exactly ``round(reveal_ratio * num_patches)`` patches.

    The first masks of a seed stay the same when more are drawn, and are the same on every device.
    ``keep_hidden`` (on the CPU) names patches that are never revealed; others are in their place.

    Raises:
        ValueError: not one patch would stay hidden, or too few may be revealed.
    """
    num_revealed = round(reveal_ratio * num_patches)
    if not 0 <= num_revealed < num_patches:
        raise ValueError(
            f"reveal_ratio={reveal_ratio} reveals {num_revealed} of {num_patches} patches; "
            "at least one must stay hidden to be traced to (try 0.25)."
        )
    kept = torch.zeros(num_patches, dtype=torch.bool) if keep_hidden is None else keep_hidden
    if (free := num_patches - int(kept.sum())) < num_revealed:
        raise ValueError(
            f"reveal_ratio={reveal_ratio} reveals {num_revealed} patches but only {free} are not "
            "kept hidden; reveal fewer or keep fewer hidden."
        )
    generator = torch.Generator().manual_seed(seed + SALT)
    reveal = torch.zeros(num_masks, num_patches, dtype=torch.bool)
    order0, order1 = [], []
    for mask in reveal:
        drawn = torch.randperm(num_patches, generator=generator)
        mask[drawn[~kept[drawn]][:num_revealed]] = True
        order0.append(torch.randperm(num_patches, generator=generator))
        order1.append(torch.randperm(num_patches, generator=generator))
    return Masks(reveal, torch.stack(order0), torch.stack(order1))


def masks_of_pairs(
    pairs: int,
    num_patches: int,
    num_masks: int,
    reveal_ratio: float,
    seed: int,
    keep_hidden: Bool[Tensor, "pairs patches"] | None = None,
) -> Masks:
    """The masks of every pair of a batch: the same for all that keep the same patches hidden."""
    if keep_hidden is None:
        one = draw_masks(num_patches, num_masks, reveal_ratio, seed)
        drawn = [one] * pairs
    else:
        drawn = [
            draw_masks(num_patches, num_masks, reveal_ratio, seed, kept)
            for kept in keep_hidden.cpu()
        ]
    fields = (torch.stack([getattr(m, f) for m in drawn]) for f in ("reveal", "order0", "order1"))
    return Masks(*fields)
