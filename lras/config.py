"""Frozen configurations of the two networks. Named sizes live in configs/model/."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lras.grid import PatchGrid
from lras.vocab import TokenRanges, Vocab


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """A local autoencoder: every code sees and paints its own cell, nothing else."""

    code_px: int = 4  # px, side of a code cell
    bottleneck: Literal["kmeans", "lfq", "fsq", "residual"] = "kmeans"
    # Codebook entries; a power of two for lfq, the product of levels for fsq, those of all residual
    # levels together.
    num_codes: int = 512
    levels: Sequence[int] = ()  # fsq only: quantization levels per channel
    # Width of the cell MLPs; 0 = none, codes live in pixel space (kmeans and residual only).
    hidden: int = 0
    entropy_weight: float = 0.1  # lfq only: pull towards confident and evenly used codes
    # Residual only, in px: side of the patch that (painted_px / code_px)^2 codes paint, coarse to
    # fine. Not in repr, or the fingerprints of quantizers of before would be other ones.
    painted_px: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if self.bottleneck == "lfq" and self.num_codes.bit_count() != 1:
            raise ValueError(
                f"num_codes={self.num_codes} is not a power of two, but lfq spends one bit per "
                f"channel (try num_codes={1 << self.num_codes.bit_length()})."
            )
        product = 1
        for level in self.levels:
            product *= level
        if self.bottleneck == "fsq" and product != self.num_codes:
            raise ValueError(
                f"levels={list(self.levels)} make {product} codes, expected num_codes="
                f"{self.num_codes}; set num_codes={product}."
            )
        if self.bottleneck in ("lfq", "fsq") and not self.hidden:
            raise ValueError(f"{self.bottleneck} needs cell MLPs, got hidden=0 (try hidden=256).")
        self._check_residual()

    def _check_residual(self) -> None:
        if self.bottleneck != "residual":
            if self.painted_px is not None:
                raise ValueError(
                    f"painted_px={self.painted_px} belongs to bottleneck=residual, got bottleneck="
                    f"{self.bottleneck}; leave it out."
                )
            return
        px = self.painted_px or 0
        if px <= self.code_px or px % self.code_px:
            raise ValueError(
                f"residual codes need a patch of several cells, got painted_px={self.painted_px} "
                f"and code_px={self.code_px} (try painted_px={2 * self.code_px})."
            )
        levels = (px // self.code_px) ** 2
        if self.num_codes % levels or not self.num_codes:
            raise ValueError(
                f"num_codes={self.num_codes} do not divide among {levels} residual levels "
                f"(try num_codes={-(-max(1, self.num_codes) // levels) * levels})."
            )


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Size, geometry and flavor of the frame predictor. The defaults are the nano model.

    Two presets are provided as constructors: ``official`` (the published LRAS) and ``modern``
    (for training from scratch). Both are one class, told apart by these fields only.
    """

    image_size: int = 64  # px, square; rotary positions also run on other grids
    patch_px: int = 4  # px; one pointer token addresses one patch
    code_px: int = 4  # px; one content token covers one code cell
    num_codes: int = 512  # codebook entries
    dim: int = 128
    num_heads: int = 4
    num_layers: int = 4
    mlp_ratio: float = 2.0
    mlp: Literal["gelu", "squared_relu"] = "squared_relu"
    norm: Literal["layer", "rms"] = "rms"
    positions: Literal["slot", "rotary"] = "rotary"  # slot = one learned vector per place
    qk_norm: bool = True
    frame0_pointers: bool = False  # pointer tokens before frame-0 contents too
    embed_pixels: bool = True  # code embedding = table + linear of the code's decoded pixels
    tied_head: bool = True  # output weights = code embedding
    painted_px: int | None = None  # px, that of residual codes: the patch; None = a code's own cell
    vocab_size: int | None = None  # slot only: rows of the token table; None = what RGB needs
    num_places: int | None = None  # slot only: rows of the slot table; None = what RGB needs
    ranges: TokenRanges | None = None  # slot only: where a published file keeps which tokens

    def __post_init__(self) -> None:
        _ = self.grid  # checks the geometry
        self._check_tables()
        if self.painted_px not in (None, self.patch_px):
            raise ValueError(
                f"painted_px={self.painted_px} is not patch_px={self.patch_px}, but residual codes "
                f"paint a whole patch; set it to patch_px, or to null for other codes."
            )
        if self.dim % self.num_heads:
            raise ValueError(
                f"dim={self.dim} is not a multiple of num_heads={self.num_heads} "
                f"(try num_heads={max(1, self.dim // 32)})."
            )
        if self.positions == "rotary" and (self.dim // self.num_heads) % 4:
            raise ValueError(
                f"rotary positions turn rows and columns in pairs: dim / num_heads must be a "
                f"multiple of 4, got {self.dim} / {self.num_heads}."
            )

    @classmethod
    def modern(cls, **sizes: Any) -> "PredictorConfig":
        """Rotary positions, RMS norm, query-key norm, tied pixel-aware codes: from scratch."""
        return cls(**sizes)

    @classmethod
    def official(cls, **sizes: Any) -> "PredictorConfig":
        """The published LRAS: slot table, LayerNorm, GELU, pointers in both frames, no tying."""
        flavor = {
            "mlp_ratio": 4.0,
            "mlp": "gelu",
            "norm": "layer",
            "positions": "slot",
            "qk_norm": False,
            "frame0_pointers": True,
            "embed_pixels": False,
            "tied_head": False,
        }
        return cls(**(flavor | sizes))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "PredictorConfig":
        """Out of ``dataclasses.asdict``, also after a way through JSON."""
        ranges = values.get("ranges")
        if ranges is not None:
            pairs = {name: pair and tuple(pair) for name, pair in ranges.items()}
            values = {**values, "ranges": TokenRanges(**pairs)}
        return cls(**values)

    @property
    def grid(self) -> PatchGrid:
        """The grids of a frame of ``image_size``."""
        return PatchGrid(self.image_size, self.image_size, self.patch_px, self.code_px)

    @property
    def codes_per_patch(self) -> int:
        return (self.patch_px // self.code_px) ** 2

    def vocab(self, grid: PatchGrid) -> Vocab:
        """Token ids of frames on ``grid``."""
        return Vocab(self.num_codes, grid.num_patches, self.ranges)

    @property
    def num_tokens(self) -> int:
        """Rows of a slot model's token table."""
        return self.vocab_size or self.vocab(self.grid).size

    @property
    def num_slots(self) -> int:
        """Rows of a slot model's table of places."""
        return self.num_places or 2 * (1 + self.codes_per_patch) * self.grid.num_patches

    def _check_tables(self) -> None:
        """The tables hold the ids and places that two frames of RGB need."""
        longer = (self.vocab_size, self.num_places, self.ranges) != (None, None, None)
        if longer and self.positions != "slot":
            raise ValueError(
                f"vocab_size, num_places and ranges belong to positions=slot, got "
                f"positions={self.positions}; leave them out."
            )
        bare = replace(self, vocab_size=None, num_places=None, ranges=None) if longer else self
        if self.num_tokens < bare.num_tokens or self.num_slots < bare.num_slots:
            raise ValueError(
                f"vocab_size={self.num_tokens} and num_places={self.num_slots} are fewer than the "
                f"{bare.num_tokens} and {bare.num_slots} that two frames need; leave them out."
            )
