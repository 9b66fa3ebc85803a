"""Encoders that tests can predict."""

import torch
from torch import Tensor


class MeanEncoder:
    """The mean brightness of every cell, in ``num_codes`` steps; ``salt`` is all of its weights."""

    def __init__(self, num_codes: int = 256, cell_px: int = 4, salt: str = "a") -> None:
        self.num_codes, self.cell_px, self.salt = num_codes, cell_px, salt

    def encode(self, frames: Tensor) -> Tensor:
        means = torch.nn.functional.avg_pool2d(frames.mean(1, keepdim=True), self.cell_px)[:, 0]
        return (means * self.num_codes).long().clamp_max(self.num_codes - 1)

    def fingerprint(self) -> str:
        return f"mean-{self.num_codes}-{self.cell_px}-{self.salt}"


class SilentEncoder(MeanEncoder):
    """Does not say how many codes it has, and uses more than there is room for."""

    def __init__(self) -> None:
        super().__init__()
        del self.num_codes

    def encode(self, frames: Tensor) -> Tensor:
        return torch.full((len(frames), 2, 2), 70_000)


class FlatEncoder(MeanEncoder):
    """Forgets rows and columns."""

    def encode(self, frames: Tensor) -> Tensor:
        return super().encode(frames).flatten(1)


class NoEncoder:
    """Has neither method."""
