"""Residual codes, coarse to fine: the first names a picture of the patch, the next what it lacks.

Every level has a codebook of its own, of what the levels before it leave over, so the sum of a
patch's first k code vectors is the best guess that k codes give. Nothing mixes patches.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lras.bottleneck import KMeansCodebook


class ResidualCodes(nn.Module):
    """A k-means codebook per level; a bottleneck that gives a patch several codes.

    ``num_codes`` are those of all levels together: level k owns ``num_codes / levels`` consecutive
    ids from ``k * num_codes / levels`` on. So an id means one thing wherever it stands, and one
    table of content tokens, their pixels and the head serve all levels as they serve other codes.

    Source:
        Residual vector quantization (Juang and Gray 1982); for pictures Lee et al. 2022,
        arXiv:2203.01941, whose levels share one codebook.
    """

    def __init__(self, num_codes: int, levels: int, latent: int) -> None:
        super().__init__()
        self.per_level = num_codes // levels
        self.levels = nn.ModuleList(KMeansCodebook(self.per_level, latent) for _ in range(levels))

    @property
    def initialized(self) -> bool:
        """Whether every level has been started."""
        return all(bool(level.initialized) for level in self.levels)

    @torch.no_grad()
    def initialize(
        self, latents: Float[Tensor, "patches latent"], generator: torch.Generator
    ) -> None:
        """Start level after level, each on what the ones before it leave over."""
        for level in self.levels:
            level.initialize(latents, generator)
            latents = latents - level.embed(level.quantize(latents))

    def forward(
        self, latent: Float[Tensor, "patches latent"]
    ) -> tuple[
        Float[Tensor, "levels patches latent"],
        Int[Tensor, "patches levels"],
        Float[Tensor, ""],
    ]:
        """What the first 1, 2, ... codes say together, with straight-through gradients to
        ``latent``; the codes; and the mean of the levels' commitments.
        """
        left, known, codes, partial, penalties = latent, torch.zeros_like(latent), [], [], []
        for number, level in enumerate(self.levels):
            _, own, penalty = level(left)
            chosen = level.embed(own).detach()
            left, known = left - chosen, known + chosen
            codes.append(own + number * self.per_level)
            partial.append(latent + (known - latent).detach())
            penalties.append(penalty)
        return torch.stack(partial), torch.stack(codes, -1), torch.stack(penalties).mean()

    def quantize(self, latent: Float[Tensor, "patches latent"]) -> Int[Tensor, "patches levels"]:
        """The codes alone, coarse to fine."""
        left, codes = latent, []
        for number, level in enumerate(self.levels):
            own = level.quantize(left)
            left = left - level.embed(own).detach()
            codes.append(own + number * self.per_level)
        return torch.stack(codes, -1)

    def embed(self, codes: Int[Tensor, "*n levels"]) -> Float[Tensor, "*n latent"]:
        """What the codes of a patch, or its first ones, say together."""
        return self.table()[codes].sum(-2)

    def table(self) -> Float[Tensor, "codes latent"]:
        """What every code adds, by its id."""
        return torch.cat([level.codebook for level in self.levels])
