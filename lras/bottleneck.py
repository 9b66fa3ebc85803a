"""From a cell's latent vector to an integer code and back: k-means codebook, LFQ, FSQ.

Each bottleneck offers ``forward(latent) -> (quantized, codes, penalty)`` with straight-through
gradients, ``quantize(latent) -> codes`` alone, and ``embed(codes) -> quantized``. None mixes cells,
and only ``forward`` in training meets other ranks.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Quantized = tuple[Float[Tensor, "cells latent"], Int[Tensor, " cells"], Float[Tensor, ""]]


class KMeansCodebook(nn.Module):
    """Nearest of ``num_codes`` vectors. Start it with ``initialize``; gradients then move it."""

    def __init__(self, num_codes: int, latent: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(0.1 * torch.randn(num_codes, latent))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def initialize(
        self, latents: Float[Tensor, "cells latent"], generator: torch.Generator, steps: int = 15
    ) -> None:
        """Lloyd's algorithm from randomly drawn cells; an empty cluster is drawn again."""
        num_codes = len(self.codebook)
        if len(latents) < num_codes:
            raise ValueError(
                f"k-means got {len(latents)} cells for {num_codes} codes; "
                f"hand in larger batches or ask for fewer codes."
            )
        pick = torch.randperm(len(latents), generator=generator)[:num_codes]
        centers = latents[pick].clone()
        for _ in range(steps):
            nearest = _nearest(latents, centers)
            sums = torch.zeros_like(centers).index_add_(0, nearest, latents)
            counts = torch.bincount(nearest, minlength=num_codes)
            fresh = latents[torch.randint(len(latents), (num_codes,), generator=generator)]
            mean = sums / counts.clamp_min(1)[:, None]
            centers = torch.where(counts[:, None] > 0, mean, fresh)
        self.codebook.copy_(centers)
        self.initialized.fill_(True)

    def forward(self, latent: Float[Tensor, "cells latent"]) -> Quantized:
        codes = self.quantize(latent)
        chosen = self.embed(codes)
        commitment = F.mse_loss(latent, chosen.detach()) + F.mse_loss(chosen, latent.detach())
        return latent + (chosen - latent).detach(), codes, commitment

    def quantize(self, latent: Float[Tensor, "cells latent"]) -> Int[Tensor, " cells"]:
        return _nearest(latent.detach(), self.codebook.detach())

    def embed(self, codes: Int[Tensor, "*n"]) -> Float[Tensor, "*n latent"]:
        return F.embedding(codes, self.codebook)


class LFQ(nn.Module):
    """Lookup-free quantization: the sign of each channel is one bit of the code.

    Channel 0 is the most significant bit and a channel at exactly 0 counts as bit 0, as in the
    published LRAS quantizer; code vectors have unit length.

    The entropy penalty is that of a softmax over minus the squared distances from the unit latent
    to all code vectors, over ``temperature``. It factors over the bits, so it costs O(bits) and
    not O(codes): exactly for a cell's own entropy; for that of the mean code, averaged over all
    ranks, as an upper bound that takes the bits of the mean for independent.

    Source:
        Yu et al. 2023, arXiv:2310.05737; the factorized entropy is that of BSQ, arXiv:2406.07548.
    """

    def __init__(self, bits: int, entropy_weight: float, temperature: float = 0.1) -> None:
        super().__init__()
        self.bits, self.entropy_weight, self.temperature = bits, entropy_weight, temperature
        self.register_buffer("weights", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)

    def forward(self, latent: Float[Tensor, "cells latent"]) -> Quantized:
        unit = F.normalize(latent, dim=-1)
        bit, codes = latent > 0, self.quantize(latent)
        chosen = (2.0 * bit - 1.0).to(latent) / math.sqrt(self.bits)
        penalty = self.entropy_weight * self._entropy_penalty(unit)
        penalty = penalty + 0.25 * F.mse_loss(unit, chosen)
        return unit + (chosen - unit).detach(), codes, penalty

    def quantize(self, latent: Float[Tensor, "cells latent"]) -> Int[Tensor, " cells"]:
        return ((latent > 0) * self.weights).sum(-1)

    def entropies(
        self, unit: Float[Tensor, "cells latent"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean entropy of each cell's code, and entropy of the mean code, in nats."""
        logits = 4 * unit / (self.temperature * math.sqrt(self.bits))
        chance = torch.sigmoid(logits)
        # Ranks may validate different numbers of batches, so they only meet in training.
        mean = _global_mean(chance) if self.training else chance.mean(0)
        return _logit_entropy(logits).sum(-1).mean(), _bit_entropy(mean).sum()

    def _entropy_penalty(self, unit: Float[Tensor, "cells latent"]) -> Float[Tensor, ""]:
        own, of_mean = self.entropies(unit)
        return own - of_mean

    def embed(self, codes: Int[Tensor, "*n"]) -> Float[Tensor, "*n latent"]:
        bit = (codes[..., None] & self.weights) > 0
        return (2.0 * bit - 1.0) / math.sqrt(self.bits)


class FSQ(nn.Module):
    """Finite scalar quantization: every channel is rounded to a few levels; no penalty.

    Source:
        Mentzer et al. 2023, arXiv:2309.15505.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        sizes = torch.tensor(levels)
        strides = torch.cumprod(torch.cat([torch.ones(1, dtype=torch.long), sizes[:-1]]), 0)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, latent: Float[Tensor, "cells latent"]) -> Quantized:
        steps, bounded = self.sizes - 1, self._bounded(latent)
        level = bounded + (bounded.round() - bounded).detach()
        return 2 * level / steps - 1, self.quantize(latent), latent.new_zeros(())

    def quantize(self, latent: Float[Tensor, "cells latent"]) -> Int[Tensor, " cells"]:
        return (self._bounded(latent).detach().round().long() * self.strides).sum(-1)

    def _bounded(self, latent: Float[Tensor, "cells latent"]) -> Float[Tensor, "cells latent"]:
        return torch.sigmoid(2 * latent) * (self.sizes - 1)  # (0, levels - 1)

    def embed(self, codes: Int[Tensor, "*n"]) -> Float[Tensor, "*n latent"]:
        level = (codes[..., None] // self.strides) % self.sizes
        return 2.0 * level / (self.sizes - 1) - 1


def _nearest(
    latents: Float[Tensor, "cells latent"], centers: Float[Tensor, "codes latent"]
) -> Int[Tensor, " cells"]:
    """Index of the nearest center; in slices, so that the distance matrix stays small."""
    half = 0.5 * centers.square().sum(-1)
    return torch.cat([(half - part @ centers.T).argmin(-1) for part in latents.split(65_536)])


def _logit_entropy(logits: Tensor) -> Tensor:
    """Entropy of bits with these log odds, in nats; exact where a chance would round to 0 or 1."""
    size = logits.abs()
    return F.softplus(-size) + size * torch.sigmoid(-size)


def _bit_entropy(chance: Tensor) -> Tensor:
    chance = chance.clamp(1e-6, 1 - 1e-6)
    return -(chance * chance.log() + (1 - chance) * (1 - chance).log())


def _global_mean(chance: Float[Tensor, "cells latent"]) -> Float[Tensor, " latent"]:
    """Mean over the cells of all ranks, with gradient to this rank's cells."""
    mean = chance.mean(0)
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.nn.functional import all_reduce

        mean = all_reduce(mean) / dist.get_world_size()
    return mean
