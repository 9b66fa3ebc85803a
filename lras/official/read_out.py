"""Published read-outs with a key-value cache: patch-parallel prediction, and roll-out.

All passes are plain causal in the order of the sequence. Patch-parallel prediction stands token by
token: the condition, then the pointers of all asked patches, then all their first codes, all their
second codes, ... A patch's first code so sees the pointers of the patches asked before it, its
second code the pointers of all and the first codes of those up to it. The published code makes one
forward of growing length per code; here each token is read once.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from lras.layers import KeyValue
from lras.next_frame import NextFrame, Vocabulary
from lras.official.sampling import GREEDY
from lras.predictor import FramePredictor, split_revealed
from lras.quantizer import Quantizer
from lras.sequence import Sequence, concat, frame_groups

Choose = Callable[[Float[Tensor, "batch asked vocab"]], Int[Tensor, "batch asked"]]


class Step(NamedTuple):
    """One step of a read-out: float32 logits over the whole vocabulary, and what was chosen."""

    logits: Float[Tensor, "batch asked vocab"]
    tokens: Int[Tensor, "batch asked"]


class Cache:
    """Keys and values of all that was read so far, in buffers that hold ``capacity`` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.last: Float[Tensor, "batch 1 dim"] | None = None  # hidden state of the last token
        self._buffers: list[KeyValue] = []

    def append(self, block: int, key: Tensor, value: Tensor) -> KeyValue:
        """Keep what a block made of new tokens; all it has made so far."""
        if block == len(self._buffers):
            shape = (*key.shape[:2], self.capacity, key.shape[-1])
            self._buffers.append((key.new_empty(shape), value.new_empty(shape)))
        end = self.length + key.shape[2]
        keys, values = self._buffers[block]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def block(self, index: int) -> KeyValue:
        """Keys and values of a block, (batch, heads, length, head_dim)."""
        keys, values = self._buffers[index]
        return keys[:, :, : self.length], values[:, :, : self.length]


@torch.no_grad()
def read(
    predictor: FramePredictor,
    tokens: Int[Tensor, "batch seq"],
    places: Int[Tensor, "batch seq"],
    cache: Cache,
) -> Float[Tensor, "batch seq dim"]:
    """Hidden states of tokens that continue what ``cache`` holds; the cache grows by them.

    ``tokens`` are vocabulary ids and ``places`` rows of the slot table, of any kind (colors, flow
    or poses).

    Raises:
        ValueError: the predictor has no slot table, or the cache is too small.
    """
    if predictor.cfg.positions != "slot":
        raise ValueError(
            f"published read-outs need a slot table, got positions={predictor.cfg.positions!r}; "
            f"use FramePredictor.read_patches for this model."
        )
    end = cache.length + tokens.shape[1]
    if end > cache.capacity:
        raise ValueError(f"{end} tokens do not fit the cache; make it with Cache({end}).")
    x = predictor.token_table(tokens) + predictor.place_table(places)
    mask = _mask(tokens.shape[1], end, x)
    for index, block in enumerate(predictor.blocks):
        x = block.read_on(x, None, partial(cache.append, index), mask)
    cache.length = end
    hidden = predictor.final_norm(x)
    cache.last = hidden[:, -1:]
    return hidden


def _mask(new: int, end: int, x: Tensor) -> Tensor | None:
    """New tokens see all that stood before, and causally themselves; made once for all blocks."""
    if new in (1, end):
        return None
    # subtle: is_causal would align the triangle with the first key, not with the last
    hidden = torch.full((new, end), -torch.inf, dtype=x.dtype, device=x.device)
    return hidden.triu(1 + end - new)


def all_logits(
    predictor: FramePredictor, hidden: Float[Tensor, "batch seq dim"]
) -> Float[Tensor, "batch seq vocab"]:
    """Logits over the whole vocabulary (contents, pointers and whatever else), float32."""
    return F.linear(hidden, predictor.head_weight()).float()


# --- the two read-outs --------------------------------------------------------------------------


def read_condition(
    predictor: FramePredictor,
    codes0: Int[Tensor, "batch patches codes"],
    codes1: Int[Tensor, "batch patches codes"],
    order0: Int[Tensor, "batch patches"],
    revealed: Int[Tensor, "batch revealed"],
    grid: PatchGrid,
) -> Cache:
    """Read frame 0 and the revealed patches of frame 1; room is left for all other patches."""
    vocab = predictor.cfg.vocab(grid)
    first = frame_groups(codes0, order0, 0, vocab)
    seq = concat(first, frame_groups(codes1, revealed, 1, vocab))
    cache = Cache((order0.shape[1] + grid.num_patches) * (1 + grid.codes_per_patch))
    read(predictor, seq.tokens, predictor.places(seq, grid), cache)
    return cache


def patch_parallel(
    predictor: FramePredictor,
    cache: Cache,
    asked: Int[Tensor, "batch asked"],
    grid: PatchGrid,
    choose: Choose = GREEDY,
) -> Iterator[Step]:
    """One step per code of a patch, each for all ``asked`` patches; stop early to save the rest.

    The published code always chooses greedily, from the whole vocabulary.
    """
    tokens, place = _pointers(predictor, asked, grid)
    for code in range(grid.codes_per_patch):
        hidden = read(predictor, tokens, place + code, cache)
        logits = all_logits(predictor, hidden)
        tokens = choose(logits)
        yield Step(logits, tokens)


def roll_out(
    predictor: FramePredictor,
    cache: Cache,
    asked: Int[Tensor, "batch asked"],
    grid: PatchGrid,
    choose: Choose = GREEDY,
) -> Iterator[Step]:
    """Token by token, patch after patch: one step (asked = 1) per token, pointers included.

    A pointer is set whatever was chosen; something is chosen all the same, so that random draws
    fall as in the published code.
    """
    pointers, place = _pointers(predictor, asked, grid)
    for n in range(asked.shape[1]):
        for slot in range(1 + grid.codes_per_patch):
            logits = all_logits(predictor, cache.last)
            tokens = choose(logits)
            if slot == 0:
                tokens = pointers[:, n : n + 1]
            yield Step(logits, tokens)
            read(predictor, tokens, place[:, n : n + 1] + slot, cache)


def predict_frame1(
    predictor: FramePredictor,
    codes0: Int[Tensor, "batch patches codes"],
    codes1: Int[Tensor, "batch patches codes"],
    order0: Int[Tensor, "batch patches"],
    revealed: Int[Tensor, "batch revealed"],
    asked: Int[Tensor, "batch asked"],
    grid: PatchGrid,
    num_sequential: int = 0,
    choose: Choose = GREEDY,
) -> Int[Tensor, "batch patches codes"]:
    """Tokens of frame 1: the first ``num_sequential`` asked patches by roll-out, the rest at once.

    ``choose`` serves the roll-out; the parallel part is greedy, as published. Patches neither
    revealed nor asked keep ``codes1``. A token may be no code, where the model names a pointer.
    """
    cache = read_condition(predictor, codes0, codes1, order0, revealed, grid)
    first, rest = asked[:, :num_sequential], asked[:, num_sequential:]
    rolled = [step.tokens for step in roll_out(predictor, cache, first, grid, choose)]
    found = codes1.clone()
    rows = torch.arange(len(asked), device=asked.device)[:, None]
    if rolled:
        slots = 1 + grid.codes_per_patch
        groups = rearrange(torch.cat(rolled, dim=1), "b (p t) -> b p t", t=slots)
        found[rows, first] = groups[:, :, 1:]
    if rest.shape[1]:
        steps = patch_parallel(predictor, cache, rest, grid)
        found[rows, rest] = torch.stack([step.tokens for step in steps], dim=-1)
    return found


def _pointers(
    predictor: FramePredictor, asked: Int[Tensor, "batch asked"], grid: PatchGrid
) -> tuple[Int[Tensor, "batch asked"], Int[Tensor, "batch asked"]]:
    """Pointer token and place of the pointer, for patches of frame 1."""
    tokens = asked + predictor.cfg.vocab(grid).pointer_base(1)
    seq = Sequence(tokens, torch.ones_like(asked), asked, torch.zeros_like(asked))
    return tokens, predictor.places(seq, grid)


class PatchParallelNextFrame(NextFrame):
    """A ``NextFrame`` that is read as published: hidden patches in parallel, each step greedy.

    Differs from ``NextFrame`` in what a hidden patch sees: pointers and predicted codes of the
    others, and its own predicted codes instead of the true ones.

    Raises:
        ValueError: the predictor has no slot table, or no pointers in frame 0.
    """

    forks = False  # hidden patches see one another, so no part of a read-out can be shared

    def __init__(
        self,
        quantizer: Quantizer,
        predictor: FramePredictor,
        vocabulary: Vocabulary = "content",
    ) -> None:
        super().__init__(quantizer, predictor, vocabulary)
        cfg = predictor.cfg
        if cfg.positions != "slot" or not cfg.frame0_pointers:
            raise ValueError(
                f"the published read-out needs positions=slot and frame0_pointers=True, got "
                f"positions={cfg.positions} and frame0_pointers={cfg.frame0_pointers}; read this "
                f"model with hidden_patches=apart."
            )

    @torch.no_grad()
    def frame1_logits(
        self,
        codes0: Int[Tensor, "batch code_rows code_cols"],
        codes1: Int[Tensor, "batch code_rows code_cols"],
        reveal: Bool[Tensor, "batch patches"],
        order0: Int[Tensor, "batch patches"],
        order1: Int[Tensor, "batch patches"],
        read_out: str = "all",
    ) -> Float[Tensor, "batch rows cols vocab"]:
        """Logits of ``vocabulary``, float32; rows of revealed patches are 0.

        See tracing.protocol.
        """
        grid = self._grid(codes0)
        revealed, hidden = split_revealed(order1, reveal)
        grouped = grid.to_patches(codes0), grid.to_patches(codes1)
        cache = read_condition(self.predictor, *grouped, order0, revealed, grid)
        steps = patch_parallel(self.predictor, cache, hidden, grid)
        count = 1 if read_out == "first" else grid.codes_per_patch
        vocab = self.num_columns
        full = torch.zeros(len(codes0), grid.num_patches, count, vocab, device=codes0.device)
        rows = torch.arange(len(codes0), device=codes0.device)[:, None]
        for code, step in enumerate(islice(steps, count)):
            full[rows, hidden, code] = step.logits[..., :vocab]
        side = 1 if read_out == "first" else grid.side
        return rearrange(full, "b (r c) (i j) v -> b (r i) (c j) v", r=grid.rows, i=side, j=side)
