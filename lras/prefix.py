"""What a predictor has read, kept as keys and values: read once, continued in many ways.

``extend`` goes on causally from what is given and leaves that as it is, so one prefix can be
forked into many continuations; ``read`` asks patches in parallel. A part may be shared: rows of a
fork that stand one after another use one row of it, and nothing is copied.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lras.attend import Backend
from lras.grid import PatchGrid
from lras.layers import KeyValue
from lras.predictor import FramePredictor
from lras.sequence import Sequence as Tokens
from lras.sequence import frame_groups

Part = list[KeyValue]  # keys and values of some tokens, by every block


@dataclass(frozen=True)
class Given:
    """Parts of a sequence in the order they were read; never changed, only built upon."""

    parts: tuple[Part, ...] = ()

    @property
    def length(self) -> int:
        """Tokens read."""
        return sum(part[0][0].shape[2] for part in self.parts)

    @property
    def rows(self) -> int:
        """Sequences it stands for; 1 when all parts are shared."""
        return max((len(part[0][0]) for part in self.parts), default=1)

    def __add__(self, other: "Given") -> "Given":
        """Both, as if the second had been read after the first."""
        return Given(self.parts + other.parts)

    def since(self, earlier: "Given") -> "Given":
        """Only what was read after ``earlier``, which this one was built upon."""
        return Given(self.parts[len(earlier.parts) :])

    def block(self, index: int) -> list[KeyValue]:
        """Keys and values of one block, part by part."""
        return [part[index] for part in self.parts]


@torch.no_grad()
def extend(
    predictor: FramePredictor,
    given: Given,
    codes: Int[Tensor, "batch patches codes"],
    patches: Int[Tensor, "batch kept"],
    frame: int,
    grid: PatchGrid,
    backend: Backend = "auto",
) -> Given:
    """``given`` and the groups of ``patches`` of a frame; each row sees only its own new tokens."""
    if not patches.shape[1]:
        return given
    pointers = frame == 1 or predictor.cfg.frame0_pointers
    new = frame_groups(codes, patches, frame, predictor.cfg.vocab(grid), pointers)
    _, part = run(predictor, given, new, new.tokens.shape[1], grid, backend)
    return Given((*given.parts, part))


@torch.no_grad()
def read(
    predictor: FramePredictor,
    given: Given,
    codes1: Int[Tensor, "batch patches codes"],
    asked: Int[Tensor, "batch asked"],
    grid: PatchGrid,
    codes_read: int,
    columns: int,
    backend: Backend = "auto",
) -> Float[Tensor, "batch asked read vocab"]:
    """Logits of patches of frame 1 that see what is given and their own true codes, not each other.

    ``columns`` of ``head_weight`` are read, ``codes_read`` codes of every patch.
    """
    if not asked.shape[1]:
        return predictor.head_weight().new_zeros(len(asked), 0, codes_read, columns)
    vocab = predictor.cfg.vocab(grid)
    queries = frame_groups(codes1[..., : codes_read - 1], asked, 1, vocab)
    x, _ = run(predictor, given, queries, codes_read, grid, backend)
    logits = predictor.logits(x, columns)
    return rearrange(logits, "b (p k) v -> b p k v", k=codes_read)


def run(
    predictor: FramePredictor,
    given: Given,
    new: Tokens,
    group: int,
    grid: PatchGrid,
    backend: Backend,
) -> tuple[Float[Tensor, "batch seq dim"], Part]:
    """All blocks over new tokens in groups: what leaves the last, and all keys and values."""
    predictor.check_grid(grid)
    x, rotation, part = predictor.embed(new, grid), predictor.rotation(new, grid), []
    for index, block in enumerate(predictor.blocks):
        x, key_value = block.read_parts(x, rotation, given.block(index), group, backend)
        part.append(key_value)
    return x, part
