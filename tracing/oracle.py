"""Exact models of simple motions: what tracing must answer is known."""

import torch
from einops import reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.coords import pixel_centers
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
        right, down = self.shift_cells
        return self._certain(codes0.roll((down, right), dims=(1, 2)), reveal, read_out)

    def _certain(
        self,
        moved: Int[Tensor, "batch code_rows code_cols"],
        reveal: Bool[Tensor, "batch patches"],
        read_out: ReadOut,
    ) -> Float[Tensor, "batch rows cols vocab"]:
        """Logits of who knows that frame 1 is ``moved``."""
        grid = self._grid(moved)
        levels = torch.arange(self.num_codes, device=moved.device)
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

    def _grid(self, codes: Int[Tensor, "batch code_rows code_cols"]) -> PatchGrid:
        rows, cols = codes.shape[1:]
        return PatchGrid(rows * self.code_px, cols * self.code_px, self.patch_px, self.code_px)


class MatchingOracle(ShiftOracle):
    """Predictor of a gray scene that slides by any amount, which it is not told.

    It takes the shift by whole cells, up to ``reach_cells`` along each axis, that carries frame 0
    best to the revealed cells of frame 1, and is as certain of the shifted frame 0 as
    ``ShiftOracle``. So it knows a motion to the nearest cell of what it is shown: of an enlarged
    crop, better. Something must be revealed.
    """

    def __init__(
        self,
        patch_px: int,
        code_px: int,
        num_codes: int = 64,
        reach_cells: int = 3,
        sharpness: float = 4.0,
    ) -> None:
        super().__init__((0, 0), patch_px, code_px, num_codes, sharpness)
        self.reach_cells = reach_cells

    def sliding_frames(
        self, height: int, width: int, shift_px: tuple[float, float], seed: int
    ) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "3 height width"]]:
        """Smooth random waves before and after moving by ``shift_px`` (right, down), exactly."""
        generator = torch.Generator().manual_seed(seed)
        lengths = 6 * self.code_px * (0.5 + torch.rand(24, generator=generator))  # px
        angles, phases = 2 * torch.pi * torch.rand(2, 24, generator=generator)
        waves = 2 * torch.pi / lengths * torch.stack([angles.cos(), angles.sin()])

        def brightness(x0: float, y0: float) -> Float[Tensor, "height width"]:
            xy = pixel_centers(height, width) - torch.tensor([x0, y0])
            heights = (xy @ waves + phases).cos().mean(-1)
            return (0.3 + 0.7 * heights).clamp(0, 0.6)  # dark enough for tracers to show

        still, moved = brightness(0.0, 0.0), brightness(*shift_px)
        return repeat(still, "h w -> c h w", c=3), repeat(moved, "h w -> c h w", c=3)

    def frame1_logits(
        self,
        codes0: Int[Tensor, "batch code_rows code_cols"],
        codes1: Int[Tensor, "batch code_rows code_cols"],
        reveal: Bool[Tensor, "batch patches"],
        order0: Int[Tensor, "batch patches"],
        order1: Int[Tensor, "batch patches"],
        read_out: ReadOut,
    ) -> Float[Tensor, "batch rows cols vocab"]:
        """Certain of frame 0 in its best shift; only revealed ``codes1`` are looked at."""
        grid = self._grid(codes0)
        shown = grid.to_cells(repeat(reveal, "b p -> b p k", k=grid.codes_per_patch))
        reach = range(-self.reach_cells, self.reach_cells + 1)
        shifts = sorted(((r, d) for r in reach for d in reach), key=lambda s: s[0] ** 2 + s[1] ** 2)
        inside = torch.ones_like(shown)
        costs, candidates = [], []
        for right, down in shifts:
            moved = codes0.roll((down, right), dims=(1, 2))
            # What comes from outside frame 0 is not known: the roll puts anything there.
            known = shown & _not_wrapped(inside, right, down)
            apart = (moved - codes1).abs().masked_fill(~known, 0).sum((1, 2)).double()
            costs.append(apart / known.sum((1, 2)))  # NaN or inf where nothing is left
            candidates.append(moved)
        best = torch.stack(costs).nan_to_num(torch.inf).argmin(0)  # the shortest of equal ones
        rows = torch.arange(len(codes0), device=codes0.device)
        return self._certain(torch.stack(candidates)[best, rows], reveal, read_out)


def _not_wrapped(
    inside: Bool[Tensor, "batch rows cols"], right: int, down: int
) -> Bool[Tensor, "batch rows cols"]:
    """Cells that a roll by (right, down) fills from inside the frame."""
    rows, cols = inside.shape[1:]
    kept = torch.zeros_like(inside)
    kept[:, max(0, down) : rows + min(0, down), max(0, right) : cols + min(0, right)] = True
    return kept
