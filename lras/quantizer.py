"""The local patch quantizer: pixels of one cell -> one code -> pixels of that cell.

Strictly local by construction: every operation is on the flattened pixels of a single cell.
A change of one cell's pixels changes that cell's code and no other (tests/test_lras_quantizer.py).

With residual codes the cell is a whole patch and gets several codes, coarse to fine. They are laid
on the grid of code cells all the same, row-major within their patch, so that ``PatchGrid`` groups
them in their order; but there each of them speaks of the whole patch.
"""

import hashlib
import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from lras.bottleneck import FSQ, LFQ, KMeansCodebook
from lras.config import QuantizerConfig
from lras.hub import Hub
from lras.residual_codes import ResidualCodes


class Quantizer(nn.Module, Hub):
    """Encode frames to a grid of codes, decode codes to frames."""

    purpose = "A local patch quantizer: the pixels of one cell become one code, and codes pixels."
    loaded_by = "load_quantizer"
    expected_rgb_means = "expected RGB: the mean over all samples, not over a few"

    def __init__(self, cfg: QuantizerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        pixels = 3 * self.painted_px**2
        latent = _latent_size(cfg, pixels, self.num_levels)
        self.encoder = _cell_mlp(pixels, cfg.hidden, latent) if cfg.hidden else nn.Identity()
        self.decoder = _cell_mlp(latent, cfg.hidden, pixels) if cfg.hidden else nn.Identity()
        if cfg.bottleneck == "kmeans":
            self.bottleneck = KMeansCodebook(cfg.num_codes, latent)
        elif cfg.bottleneck == "lfq":
            self.bottleneck = LFQ(latent, cfg.entropy_weight)
        elif cfg.bottleneck == "residual":
            self.bottleneck = ResidualCodes(cfg.num_codes, self.num_levels, latent)
            self.expected_rgb_means = "expected RGB: the frame that the mean code vectors paint"
        else:
            self.bottleneck = FSQ(cfg.levels)

    @property
    def painted_px(self) -> int:
        """Side of the square that a code sees and paints: its cell, or with residual codes more."""
        return getattr(self.cfg, "painted_px", None) or self.cfg.code_px

    @property
    def num_levels(self) -> int:
        """Codes of such a square, coarse to fine."""
        return (self.painted_px // self.cfg.code_px) ** 2

    def to_cells(
        self, frames: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch rows cols pixels"]:
        """Frames in [0, 1] to one zero-centered vector per cell of ``painted_px``."""
        px = self.painted_px
        if frames.shape[-2] % px or frames.shape[-1] % px:
            raise ValueError(
                f"frames of {frames.shape[-2]}x{frames.shape[-1]} px do not hold a whole number "
                f"of {px}-px cells; resize them to multiples of {px}."
            )
        return rearrange(frames - 0.5, "b c (r i) (s j) -> b r s (c i j)", i=px, j=px)

    def to_frames(
        self, cells: Float[Tensor, "batch rows cols pixels"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Inverse of ``to_cells``, clamped to [0, 1]."""
        px = self.painted_px
        frames = rearrange(cells, "b r s (c i j) -> b c (r i) (s j)", i=px, j=px)
        return (frames + 0.5).clamp(0, 1)

    def forward(
        self, frames: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Int[Tensor, "batch rows cols"]]:
        """Mean squared reconstruction error, the bottleneck's penalty, and the codes.

        With residual codes the penalty also holds the mean error of what the first codes paint.
        """
        cells = self.to_cells(frames)
        latent = self.encoder(cells).flatten(0, 2)
        quantized, codes, penalty = self.bottleneck(latent)
        shape, cells = cells.shape[:3], cells.flatten(0, 2)
        if self.num_levels == 1:
            error = F.mse_loss(self.decoder(quantized), cells)
        else:
            *coarse, error = (F.mse_loss(self.decoder(first), cells) for first in quantized)
            penalty = penalty + torch.stack(coarse).mean()
        return error, penalty, self._on_grid(codes, *shape)

    @torch.no_grad()
    def encode(
        self, frames: Float[Tensor, "batch 3 height width"]
    ) -> Int[Tensor, "batch rows cols"]:
        """The code of every cell, in [0, num_codes)."""
        # Never in low precision: a code near a boundary would flip with the batch's neighbors.
        with torch.autocast(frames.device.type, enabled=False):
            cells = self.to_cells(frames.float())
            codes = self.bottleneck.quantize(self.encoder(cells).flatten(0, 2))
        return self._on_grid(codes, *cells.shape[:3])

    @torch.no_grad()
    def decode(
        self, codes: Int[Tensor, "batch rows cols"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The frame these codes paint, in [0, 1]."""
        return self.decode_first(codes, self.num_levels)

    @torch.no_grad()
    def decode_first(
        self, codes: Int[Tensor, "batch rows cols"], count: int
    ) -> Float[Tensor, "batch 3 height width"]:
        """The coarser frame that the first ``count`` residual codes of every patch paint."""
        if self.num_levels > 1:
            side = math.isqrt(self.num_levels)
            codes = rearrange(codes, "b (r i) (c j) -> b r c (i j)", i=side, j=side)[..., :count]
        return self.to_frames(self.decoder(self.bottleneck.embed(codes)))

    @torch.no_grad()
    def code_pixels(self) -> Float[Tensor, "codes pixels"]:
        """What each code paints, as zero-centered cell vectors in [-0.5, 0.5].

        A residual code is no picture by itself: it paints what it adds, were it alone, unbounded.
        """
        if isinstance(self.bottleneck, ResidualCodes):
            return self.decoder(self.bottleneck.table())
        device = next(self.buffers()).device
        codes = torch.arange(self.cfg.num_codes, device=device)
        return self.decoder(self.bottleneck.embed(codes)).clamp(-0.5, 0.5)

    @torch.no_grad()
    def expected_frames(
        self, chance: Float[Tensor, "batch rows cols codes"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Mean of what the codes paint, weighted by each cell's distribution over them.

        With residual codes the frame that the sum of a patch's mean code vectors paints, which is
        the mean frame where ``hidden=0``.
        """
        if isinstance(self.bottleneck, ResidualCodes):
            side, vectors = math.isqrt(self.num_levels), chance @ self.bottleneck.table()
            means = reduce(vectors, "b (r i) (c j) d -> b r c d", "sum", i=side, j=side)
            return self.to_frames(self.decoder(means))
        return self.to_frames(chance @ self.code_pixels())

    @torch.no_grad()
    def initialize(
        self, frames: Float[Tensor, "batch 3 height width"], generator: torch.Generator
    ) -> None:
        """Start k-means codebooks from these frames; the other bottlenecks need nothing."""
        if isinstance(self.bottleneck, KMeansCodebook | ResidualCodes):
            latents = self.encoder(self.to_cells(frames)).flatten(0, 2)
            self.bottleneck.initialize(latents, generator)

    def fingerprint(self) -> str:
        """Hash of the weights: codes of two quantizers agree only if their fingerprints do."""
        digest = hashlib.sha256(repr(self.cfg).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _on_grid(
        self, codes: Int[Tensor, "*cells"], batch: int, rows: int, cols: int
    ) -> Int[Tensor, "batch code_rows code_cols"]:
        """Codes of all cells in their places, levels row-major within their cell."""
        side = math.isqrt(self.num_levels)
        sizes = {"b": batch, "r": rows, "c": cols, "i": side, "j": side}
        return rearrange(codes.flatten(), "(b r c i j) -> b (r i) (c j)", **sizes)


def _latent_size(cfg: QuantizerConfig, pixels: int, levels: int) -> int:
    if cfg.bottleneck == "lfq":
        return cfg.num_codes.bit_length() - 1
    if cfg.bottleneck == "fsq":
        return len(cfg.levels)
    return 16 * levels if cfg.hidden else pixels


def _cell_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )
