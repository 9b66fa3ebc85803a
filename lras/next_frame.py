"""NextFrame: pixels to codes, codes to content logits. What ``tracing`` asks of a model."""

from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lras import prefix
from lras.attend import Backend
from lras.grid import PatchGrid
from lras.hub import Hub
from lras.predictor import FramePredictor, split_revealed
from lras.prefix import Given
from lras.quantizer import Quantizer

Vocabulary = Literal["content", "full"]
WORKING = 24  # vectors of the model's width that a block makes of a token, its MLP's apart


class NextFrame(nn.Module, Hub):
    """A quantizer and a predictor, asked for frame 1 (satisfies tracing.protocol).

    Frames may have any size that holds whole patches if positions are rotary; with a slot table
    they must have the configured size.

    ``vocabulary`` says which logits are handed out: ``content``, those of the codes, or ``full``,
    behind them also those of pointers and whatever else an untied slot model can name.

    Raises:
        ValueError: the two are not of one model, or there is no such vocabulary.
    """

    forks = True  # extend and read answer as frame1_logits does
    purpose = "Predicts the next frame of a video; optical flow is read out of it without training."
    loaded_by = "load"

    def __init__(
        self,
        quantizer: Quantizer,
        predictor: FramePredictor,
        vocabulary: Vocabulary = "content",
    ) -> None:
        super().__init__()
        own, other = quantizer.cfg, predictor.cfg
        if (own.num_codes, own.code_px) != (other.num_codes, other.code_px):
            raise ValueError(
                f"the quantizer makes {own.num_codes} codes of {own.code_px}-px cells but the "
                f"predictor expects {other.num_codes} of {other.code_px} px; train them together "
                f"or pass quantizer= of the same model."
            )
        if quantizer.painted_px != (other.painted_px or other.code_px):
            raise ValueError(
                f"the quantizer's codes paint {quantizer.painted_px} px but the predictor expects "
                f"painted_px={other.painted_px}; set model.predictor.cfg.painted_px as the "
                f"quantizer has it."
            )
        _check_vocabulary(vocabulary, predictor)
        self.quantizer, self.predictor, self.vocabulary = quantizer, predictor, vocabulary
        self.patch_px, self.code_px = other.patch_px, other.code_px
        self.painted_px = quantizer.painted_px  # side of what a code sees: a cell or a patch
        self.image_size = other.image_size  # px, square: the size the predictor was built for
        self.attention: Backend = "auto"  # of extend and read

    def encode(
        self, frames: Float[Tensor, "batch 3 height width"]
    ) -> Int[Tensor, "batch code_rows code_cols"]:
        """Codes of every cell; frames in [0, 1]."""
        return self.quantizer.encode(frames)

    def decode(
        self, codes: Int[Tensor, "batch code_rows code_cols"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Frames in [0, 1] that the codes paint."""
        return self.quantizer.decode(codes)

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
        read = 1 if read_out == "first" else grid.codes_per_patch
        logits = self.predictor.read_patches(
            grid.to_patches(codes0),
            grid.to_patches(codes1),
            order0,
            revealed,
            hidden,
            grid,
            codes_read=read,
            columns=self.num_columns,
        )
        batch, _, _, vocab = logits.shape
        full = logits.new_zeros(batch, grid.num_patches, read, vocab, dtype=torch.float32)
        rows = torch.arange(batch, device=hidden.device)[:, None]
        full[rows, hidden] = logits.float()
        side = 1 if read == 1 else grid.side
        return rearrange(full, "b (r c) (i j) v -> b (r i) (c j) v", r=grid.rows, i=side, j=side)

    def extend(
        self,
        given: Given | None,
        codes: Int[Tensor, "batch code_rows code_cols"],
        patches: Int[Tensor, "batch kept"],
        frame: int,
    ) -> Given:
        """What is given and, after it, ``patches`` of a frame. See tracing.protocol."""
        grid = self._grid(codes)
        given, own = given or Given(), grid.to_patches(codes)
        return prefix.extend(self.predictor, given, own, patches, frame, grid, self.attention)

    def read(
        self,
        given: Given,
        codes1: Int[Tensor, "batch code_rows code_cols"],
        asked: Int[Tensor, "batch asked"],
        read_out: str = "all",
    ) -> Float[Tensor, "batch asked read vocab"]:
        """Logits of ``vocabulary``, float32, of the ``asked`` patches. See tracing.protocol."""
        grid = self._grid(codes1)
        count = 1 if read_out == "first" else grid.codes_per_patch
        own = grid.to_patches(codes1)
        logits = prefix.read(
            self.predictor, given, own, asked, grid, count, self.num_columns, self.attention
        )
        return logits.float()

    @torch.no_grad()
    def expected_rgb(
        self, logits: Float[Tensor, "batch rows cols vocab"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Mean of what the codes paint, weighted by their probability (as the quantizer can).

        Probability among the codes, where ``logits`` are of the full vocabulary.
        """
        of_codes = logits[..., : self.predictor.cfg.num_codes]
        return self.quantizer.expected_frames(of_codes.softmax(-1))

    @property
    def num_columns(self) -> int:
        """Length of a row of logits."""
        cfg = self.predictor.cfg
        return cfg.num_tokens if self.vocabulary == "full" else cfg.num_codes

    @property
    def token_bytes(self) -> int:
        """Memory that one token takes, at most, while ``extend`` or ``read`` works on it.

        Its keys and values in every block, and what one block computes of it.
        """
        cfg, weight = self.predictor.cfg, self.predictor.token_table.weight
        working = cfg.dim * (WORKING + 3 * cfg.mlp_ratio)
        return int((2 * cfg.num_layers * cfg.dim + working) * weight.element_size())

    def _grid(self, codes: Int[Tensor, "batch code_rows code_cols"]) -> PatchGrid:
        rows, cols = codes.shape[-2:]
        return PatchGrid(rows * self.code_px, cols * self.code_px, self.patch_px, self.code_px)


def _check_vocabulary(vocabulary: str, predictor: FramePredictor) -> None:
    if vocabulary not in get_args(Vocabulary):
        known = " or ".join(get_args(Vocabulary))
        raise ValueError(f"vocabulary={vocabulary} is not known; use {known}.")
    cfg = predictor.cfg
    if vocabulary == "full" and (cfg.positions != "slot" or cfg.tied_head):
        raise ValueError(
            f"vocabulary=full needs a model that scores pointers too, positions=slot and "
            f"tied_head=False, got positions={cfg.positions} and tied_head={cfg.tied_head}; use "
            f"vocabulary=content."
        )
