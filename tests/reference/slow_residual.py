"""Residual codes by their definition: patch by patch, level by level, distance by distance."""

import torch
from torch import Tensor


def slow_encode(latents: Tensor, codebooks: list[Tensor]) -> list[list[int]]:
    """For every latent the id of its code at each level; level k's ids follow those before it."""
    every = []
    for latent in latents:
        left, own, first = latent, [], 0
        for book in codebooks:
            distances = [(left - vector).square().sum().item() for vector in book]
            nearest = distances.index(min(distances))
            left = left - book[nearest]
            own.append(first + nearest)
            first += len(book)
        every.append(own)
    return every


def slow_patches(frame: Tensor, px: int) -> list[Tensor]:
    """The patches of a frame (3, height, width) in rows, each (3, px, px)."""
    rows, cols = frame.shape[1] // px, frame.shape[2] // px
    places = [(r * px, c * px) for r in range(rows) for c in range(cols)]
    return [frame[:, y : y + px, x : x + px] for y, x in places]


def slow_paint(codes: list[int], codebooks: list[Tensor], px: int) -> Tensor:
    """What a patch's codes paint without a decoder, (3, px, px) in [0, 1]."""
    table = torch.cat(codebooks)
    painted = torch.zeros_like(table[0])
    for code in codes:
        painted = painted + table[code]
    return (painted.view(3, px, px) + 0.5).clamp(0, 1)
