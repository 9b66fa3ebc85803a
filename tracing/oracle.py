"""An exact model of a known motion: what tracing must answer is known to the last digit."""

import torch
from einops import reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.protocol import ReadOut


class ShiftOracle:
    """Perfect predictor of a gray scene that slides by whole cells and wraps round the frame.

    A code is the brightness of its cell in ``num_codes`` levels. Every code of frame 1 is known
    for sure to be the one frame 0 holds ``shift_cells`` (right, down) away; wrong levels fall off
    with the square of their distance, so a stronger change of brightness is a larger KL. Logits of
    revealed patches are NaN: whoever reads them finds out.
    """

    def __init__(
        self,
        shift_cells: tuple[int, int],
        patch_px: int,
        code_px: int,
        num_codes: int = 16,
        sharpness: float = 4.0,
    ) -> None:
        self.shift_cells, self.patch_px, self.code_px = shift_cells, patch_px, code_px
        self.num_codes, self.sharpness = num_codes, sharpness

    def frames(
        self, height: int, width: int, seed: int
    ) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "3 height width"]]:
        """A random scene before and after the shift; dark to half bright, so that tracers show."""
        generator = torch.Generator().manual_seed(seed)
        grid = PatchGrid(height, width, self.patch_px, self.code_px)
        size = (grid.code_rows, grid.code_cols)
        levels = torch.randint(0, self.num_codes // 2, size, generator=generator)
        right, down = self.shift_cells
        pair = torch.stack([levels, levels.roll((down, right), dims=(0, 1))])
        frame0, frame1 = self._paint(pair / (self.num_codes - 1))
        return frame0, frame1

    def encode(
        self, frames: Float[Tensor, "batch 3 height width"]
    ) -> Int[Tensor, "batch code_rows code_cols"]:
        px = self.code_px
        brightness = reduce(frames, "b c (r y) (s x) -> b r s", "mean", y=px, x=px)
        return (brightness * (self.num_codes - 1)).round().long()

    def frame1_logits(
        self,
        codes0: Int[Tensor, "batch code_rows code_cols"],
        codes1: Int[Tensor, "batch code_rows code_cols"],
        reveal: Bool[Tensor, "batch patches"],
        order0: Int[Tensor, "batch patches"],
        order1: Int[Tensor, "batch patches"],
        read_out: ReadOut,
    ) -> Float[Tensor, "batch rows cols vocab"]:
        """Certain of the shifted frame 0; ``codes1`` and the orders change nothing."""
        rows, cols = codes0.shape[1:]
        grid = PatchGrid(rows * self.code_px, cols * self.code_px, self.patch_px, self.code_px)
        right, down = self.shift_cells
        moved = codes0.roll((down, right), dims=(1, 2))
        levels = torch.arange(self.num_codes, device=codes0.device)
        logits = -self.sharpness * (moved[..., None] - levels).square().float()
        shown = grid.to_cells(repeat(reveal, "b p -> b p k", k=grid.codes_per_patch))
        logits = logits.masked_fill(shown[..., None], torch.nan)
        return logits if read_out == "all" else logits[:, :: grid.side, :: grid.side]

    def expected_rgb(
        self, logits: Float[Tensor, "batch rows cols vocab"]
    ) -> Float[Tensor, "batch 3 height width"]:
        levels = torch.linspace(0, 1, self.num_codes, device=logits.device)
        return self._paint(logits.softmax(-1) @ levels)

    def _paint(
        self, brightness: Float[Tensor, "batch rows cols"]
    ) -> Float[Tensor, "batch 3 height width"]:
        px = self.code_px
        frames = repeat(brightness, "b r s -> b c (r y) (s x)", c=3, y=px, x=px)
        return frames.contiguous()
