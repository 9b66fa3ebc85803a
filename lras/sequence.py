"""Codes <-> (pointer, contents...) groups: how two frames become one sequence.

A group is one pointer token ("the next contents are patch p of frame f") and its codes. Frame 0
comes first and whole, then frame 1; both in a random order of patches. A token's place
(frame, patch, slot) travels beside it, so order in the sequence and place in the image are
independent: that is what makes access random.
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from lras.vocab import Vocab


class Sequence(NamedTuple):
    """Tokens with their places. Slot 0 is the pointer, slots 1..codes the contents."""

    tokens: Int[Tensor, "batch seq"]
    frame: Int[Tensor, "batch seq"]
    patch: Int[Tensor, "batch seq"]
    slot: Int[Tensor, "batch seq"]


def random_orders(batch: int, num_patches: int, generator: torch.Generator) -> Int[Tensor, "b p"]:
    """One random permutation of the patches per sample."""
    noise = torch.rand(batch, num_patches, generator=generator, device=generator.device)
    return noise.argsort(dim=1)


def patches_within(
    tokens: int | None, patches: int, share: float, groups: tuple[int, int]
) -> tuple[int, int]:
    """Patches of frame 0 and of frame 1 in a training sequence of at most ``tokens`` tokens.

    ``share`` of frame 1's patches are wanted, None tokens = no limit; ``groups``: tokens of one
    patch of each frame. What does not fit is taken from both frames alike, and of the limit less
    than a group is left over. Depends on no data, so a stage has sequences of one length.

    >>> patches_within(4096, patches=1024, share=1.0, groups=(5, 5))
    (409, 410)

    Raises:
        ValueError: not even one patch of each frame fits.
    """
    kept = max(1, round(share * patches))
    whole = patches * groups[0] + kept * groups[1]
    if tokens is None or whole <= tokens:
        return patches, kept
    if tokens < sum(groups):
        raise ValueError(
            f"sequence.tokens={tokens} hold no patch of each frame, which take {sum(groups)} "
            f"tokens; set it to {whole} for whole frames, or leave it null."
        )
    placed = min(max(1, patches * tokens // whole), (tokens - groups[1]) // groups[0])
    return placed, min(kept, (tokens - placed * groups[0]) // groups[1])


def frame_groups(
    codes: Int[Tensor, "batch patches codes"],
    order: Int[Tensor, "batch kept"],
    frame: int,
    vocab: Vocab,
    pointers: bool = True,
) -> Sequence:
    """The groups of one frame, laid out in ``order`` (which may leave patches out)."""
    num_slots = codes.shape[-1]
    picked = torch.gather(codes, 1, repeat(order, "b p -> b p k", k=num_slots))
    pointer = rearrange(order + vocab.pointer_base(frame), "b p -> b p 1")
    tokens = torch.cat([pointer, picked], dim=-1)  # (batch, kept, 1 + codes)
    patch = repeat(order, "b p -> b p t", t=1 + num_slots)
    slot = torch.arange(1 + num_slots, device=codes.device).expand_as(tokens)
    first = 0 if pointers else 1
    flat = [rearrange(part[..., first:], "b p t -> b (p t)") for part in (tokens, patch, slot)]
    return Sequence(flat[0], torch.full_like(flat[0], frame), flat[1], flat[2])


def concat(*parts: Sequence) -> Sequence:
    """One sequence after another."""
    return Sequence(*(torch.cat(field, dim=1) for field in zip(*parts, strict=True)))


def two_frames(
    codes0: Int[Tensor, "batch patches codes"],
    codes1: Int[Tensor, "batch patches codes"],
    order0: Int[Tensor, "batch placed"],
    order1: Int[Tensor, "batch kept"],
    vocab: Vocab,
    frame0_pointers: bool,
) -> Sequence:
    """The training sequence: frame 0 in ``order0``, then the groups of frame 1 in ``order1``."""
    first = frame_groups(codes0, order0, 0, vocab, pointers=frame0_pointers)
    return concat(first, frame_groups(codes1, order1, 1, vocab))


def content_rows(
    hidden: Float[Tensor, "batch seq dim"],
    tokens: Int[Tensor, "batch seq"],
    patches: int,
    codes: int,
) -> tuple[Float[Tensor, "rows dim"], Int[Tensor, " rows"]]:
    """Hidden states that are asked for a content of frame 1, and the content each should name.

    The last ``patches`` groups of the sequence are frame 1. A token of slot s < codes is followed
    by the content of slot s + 1; the last content of a group is followed by a pointer, which is
    given and never scored. Static shapes: no mask, no host synchronization.
    """
    length = patches * (1 + codes)
    groups = rearrange(hidden[:, -length:], "b (p t) d -> b p t d", p=patches)
    contents = rearrange(tokens[:, -length:], "b (p t) -> b p t", p=patches)
    return groups[:, :, :-1].flatten(0, 2), contents[:, :, 1:].flatten()
