"""The entropies of a lookup-free quantizer by its definition: a softmax over all codes."""

import math

import torch
from torch import Tensor


def full_entropies(unit: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean entropy of each cell's code, and entropy of the mean code, in nats.

    Of the softmax of minus squared distance over ``temperature`` between ``unit`` (cells, bits) and
    the 2 ** bits corners (+-1, ..., +-1) / sqrt(bits).
    """
    bits = unit.shape[1]
    index = torch.arange(2**bits)[:, None] >> torch.arange(bits - 1, -1, -1)
    corners = (2.0 * (index % 2) - 1).to(unit) / math.sqrt(bits)
    distances = [(cell - corners).square().sum(-1) for cell in unit]
    chance = torch.stack([(-distance / temperature).softmax(-1) for distance in distances])
    own = -(chance * chance.clamp_min(1e-300).log()).sum(-1).mean()
    mean = chance.mean(0)
    return own, -(mean * mean.clamp_min(1e-300).log()).sum()
