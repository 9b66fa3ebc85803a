"""Small models whose reading can be forked, and wrappers that count, or run out of memory."""

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lras.config import PredictorConfig, QuantizerConfig
from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from tracing.oracle import ShiftOracle


def loud_model(
    flavor: str = "modern", patch_px: int = 8, size: int = 32, gain: float = 1.0
) -> NextFrame:
    """Random weights, so that every token that is seen matters; codes depend on the pixels."""
    make = {"modern": PredictorConfig.modern, "official": PredictorConfig.official}[flavor]
    cfg = make(image_size=size, patch_px=patch_px, num_codes=24, dim=16, num_heads=2, num_layers=2)
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(QuantizerConfig(num_codes=24))
    quantizer.bottleneck.initialize(torch.randn(400, 48, generator=generator) / 4, generator)
    predictor = FramePredictor(cfg)
    for name, parameter in predictor.named_parameters():
        if parameter.ndim == 2:
            std = 0.8 if "table" in name else gain * parameter.shape[1] ** -0.5
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    predictor.set_code_pixels(quantizer.code_pixels())
    return NextFrame(quantizer, predictor).eval()


class Part(NamedTuple):
    """Groups of a frame that were read, in the order they were read."""

    frame: int
    codes: Tensor  # (rows, kept, codes)
    patches: Tensor  # (rows, kept)


class Listed(NamedTuple):
    """What a ``ForkingOracle`` was given: nothing but a list."""

    parts: tuple[Part, ...] = ()

    @property
    def length(self) -> int:
        return sum(part.codes.shape[1] * (1 + part.codes.shape[2]) for part in self.parts)

    def __add__(self, other: "Listed") -> "Listed":
        return Listed(self.parts + other.parts)

    def since(self, earlier: "Listed") -> "Listed":
        return Listed(self.parts[len(earlier.parts) :])


class ForkingOracle:
    """Any model as one that forks: it lists what it is given, and answers from the whole list.

    What is hidden is laid in ascending order, so that only what was read matters.
    """

    forks, token_bytes = True, 1

    def __init__(self, model: Any) -> None:
        self.model, self.patch_px, self.code_px = model, model.patch_px, model.code_px
        self.num_columns = model.num_codes

    def encode(self, frames: Tensor) -> Tensor:
        return self.model.encode(frames)

    def expected_rgb(self, logits: Tensor) -> Tensor:
        return self.model.expected_rgb(logits)

    def frame1_logits(
        self,
        codes0: Tensor,
        codes1: Tensor,
        reveal: Tensor,
        order0: Tensor,
        order1: Tensor,
        read_out: str,
    ) -> Tensor:
        shown = [row[seen[row]] for row, seen in zip(order1, reveal, strict=True)]
        order1 = torch.stack([_then_the_rest(row, reveal.shape[1]) for row in shown])
        return self.model.frame1_logits(codes0, codes1, reveal, order0, order1, read_out)

    def extend(self, given: Listed | None, codes: Tensor, patches: Tensor, frame: int) -> Listed:
        own = self._grid(codes).to_patches(codes)
        picked = own.gather(1, patches[..., None].expand(-1, -1, own.shape[2]))
        return Listed((*(given or Listed()).parts, Part(frame, picked, patches)))

    def read(self, given: Listed, codes1: Tensor, asked: Tensor, read_out: str) -> Tensor:
        grid, rows = self._grid(codes1), len(asked)
        before = torch.full((rows, grid.num_patches, grid.codes_per_patch), -1)
        reveal = torch.zeros(rows, grid.num_patches, dtype=torch.bool)
        order0, shown = torch.zeros(rows, 0, dtype=torch.long), torch.zeros(rows, 0).long()
        for part in given.parts:
            assert rows % len(part.patches) == 0
            patches = part.patches.repeat_interleave(rows // len(part.patches), 0)
            codes = part.codes.repeat_interleave(rows // len(part.patches), 0)
            at = torch.arange(rows)[:, None], patches
            if part.frame == 0:
                assert (before[at] == -1).all(), "a patch of frame 0 was read twice"
                before[at], order0 = codes, torch.cat([order0, patches], 1)
            else:
                assert not reveal[at].any(), "a patch of frame 1 was revealed twice"
                assert torch.equal(grid.to_patches(codes1)[at], codes)
                reveal[at], shown = True, torch.cat([shown, patches], 1)
        assert (before >= 0).all(), "a patch of frame 0 was not read"
        order1 = torch.stack([_then_the_rest(row, grid.num_patches) for row in shown])
        codes0 = grid.to_cells(before)
        logits = self.model.frame1_logits(codes0, codes1, reveal, order0, order1, read_out)
        if read_out == "all":
            by_patch = torch.stack([grid.to_patches(part) for part in logits.unbind(-1)], -1)
        else:
            by_patch = logits.flatten(1, 2)[:, :, None]
        return by_patch[torch.arange(rows)[:, None], asked]

    def _grid(self, codes: Tensor) -> PatchGrid:
        rows, cols = codes.shape[-2:]
        return PatchGrid(rows * self.code_px, cols * self.code_px, self.patch_px, self.code_px)


def _then_the_rest(first: Tensor, num_patches: int) -> Tensor:
    rest = [p for p in range(num_patches) if p not in set(first.tolist())]
    return torch.cat([first, torch.tensor(rest, dtype=first.dtype)])


class BlurOracle(ShiftOracle):
    """It sees frame 0 out of focus: a change of one cell is felt all round, less the farther."""

    def frame1_logits(
        self,
        codes0: Tensor,
        codes1: Tensor,
        reveal: Tensor,
        order0: Tensor,
        order1: Tensor,
        read_out: str,
    ) -> Tensor:
        rows, cols = codes0.shape[1:]
        down, right = (
            (torch.arange(n)[:, None] - torch.arange(n) - shift).double() / n
            for n, shift in zip((rows, cols), self.shift_cells[::-1], strict=True)
        )
        below, beside = (1 / (0.02 + away.square()) for away in (down, right))
        moved = below @ codes0.double() @ beside.T / (below.sum(1)[:, None] * beside.sum(1))
        levels = torch.arange(self.num_codes)
        logits = -self.sharpness * (moved[..., None] - levels).square().float()
        side = 1 if read_out == "all" else self.patch_px // self.code_px
        return logits[:, ::side, ::side]


class Watched:
    """A model that forks, and how it was asked; ``most_rows`` is all that its memory holds."""

    def __init__(self, model: Any, most_rows: int | None = None) -> None:
        self.model, self.most_rows = model, most_rows
        self.forks, self.patch_px, self.code_px = model.forks, model.patch_px, model.code_px
        self.token_bytes, self.num_columns = model.token_bytes, model.num_columns
        self.error: Exception = torch.OutOfMemoryError("out of memory")
        self.asked: list[Tensor] = []  # patches, of every read
        self.refused: list[int] = []  # rows of the reads that memory did not hold
        self.peak_tokens = self.tokens_read = 0
        self._held: list[tuple[weakref.ref, int]] = []

    def encode(self, frames: Tensor) -> Tensor:
        return self.model.encode(frames)

    def expected_rgb(self, logits: Tensor) -> Tensor:
        return self.model.expected_rgb(logits)

    def frame1_logits(self, *given: Any) -> Tensor:
        return self.model.frame1_logits(*given)

    def extend(self, given: Any, codes: Tensor, patches: Tensor, frame: int) -> Any:
        made = self.model.extend(given, codes, patches, frame)
        if made is not given and patches.shape[1]:
            part = made.parts[-1]
            kept = part.patches if isinstance(part, Part) else part[0][0]
            tokens = len(kept) * (made.length - (given.length if given else 0))
            self._held.append((weakref.ref(kept), tokens))
            self.tokens_read += tokens
            self._count(0)
        return made

    def read(self, given: Any, codes1: Tensor, asked: Tensor, read_out: str) -> Tensor:
        if self.most_rows is not None and len(asked) > self.most_rows:
            self.refused.append(len(asked))
            raise self.error
        self.asked.append(asked)
        codes = (self.patch_px // self.code_px) ** 2 if read_out == "all" else 1
        self._count(asked.numel() * codes)
        return self.model.read(given, codes1, asked, read_out)

    @property
    def num_asked(self) -> int:
        """Patches asked, all rows together."""
        return sum(asked.numel() for asked in self.asked)

    def _count(self, being_read: int) -> None:
        held = sum(tokens for kept, tokens in self._held if kept() is not None)
        self.peak_tokens = max(self.peak_tokens, held + being_read)
