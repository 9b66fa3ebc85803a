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

    reveal: Bool[Tensor, "masks patches"]  # True = shown
    order0: Int[Tensor, "masks patches"]
    order1: Int[Tensor, "masks patches"]

    def to(self, device: torch.device) -> "Masks":
        return Masks(self.reveal.to(device), self.order0.to(device), self.order1.to(device))


SALT = 2**32  # scenes and query points of the same seed must not share a stream with the masks


def draw_masks(num_patches: int, num_masks: int, reveal_ratio: float, seed: int) -> Masks:
    """Random masks that each reveal exactly ``round(reveal_ratio * num_patches)`` patches.

    The first masks of a seed stay the same when more are drawn, and are the same on every device.

    Raises:
        ValueError: not one patch would stay hidden.
    """
    num_revealed = round(reveal_ratio * num_patches)
    if not 0 <= num_revealed < num_patches:
        raise ValueError(
            f"reveal_ratio={reveal_ratio} reveals {num_revealed} of {num_patches} patches; "
            "at least one must stay hidden to be traced to (try 0.25)."
        )
    generator = torch.Generator().manual_seed(seed + SALT)
    reveal = torch.zeros(num_masks, num_patches, dtype=torch.bool)
    order0, order1 = [], []
    for mask in reveal:
        mask[torch.randperm(num_patches, generator=generator)[:num_revealed]] = True
        order0.append(torch.randperm(num_patches, generator=generator))
        order1.append(torch.randperm(num_patches, generator=generator))
    return Masks(reveal, torch.stack(order0), torch.stack(order1))
