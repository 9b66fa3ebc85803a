"""LPQ, the published local patch quantizer: a strictly local encoder, a convolutional decoder.

The encoder sees one 4x4 cell and nothing else, so a changed pixel changes one code. The decoder
looks at neighboring codes, so what a code paints depends on them. Module names are the published
ones (``project_in`` and ``project_out`` without their prefix), so weights load by name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from lras.bottleneck import LFQ
from lras.quantizer import Quantizer
from lras.shown import shown

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOW_STD_PX = 20.0  # the published flow quantizer reads flow in units of this

MAX_BLOCKS, MAX_WIDTH, MAX_KERNEL = 1000, 65_536, 64
MAX_CODES = 2**32

# ("ResBlock", in, out, hidden, kernel, stride, padding) or ("Upsample", in, out)
Block = Sequence[Any]


def _decoder_blocks(widths: Sequence[int] = (512, 256, 128)) -> tuple[Block, ...]:
    """Three residual blocks at every width; the picture doubles where the width changes."""
    blocks: list[Block] = []
    for index, width in enumerate(widths):
        blocks += [("Upsample", widths[index - 1], width)] if index else []
        blocks += 3 * [("ResBlock", width, width, 2 * width, 3, 1, 1)]
    return tuple(blocks)


@dataclass(frozen=True, kw_only=True)
class LPQConfig:
    """Sizes of the published network; the defaults are its RGB quantizer (39.7 M weights)."""

    code_px: int = 4  # px, side of a code cell
    num_codes: int = 65_536  # a power of two: one bit per latent channel
    channels: int = 3  # 3 = RGB in [0, 1]; 2 = flow in px
    encoder_blocks: Sequence[Block] = (("ResBlock", 512, 512, 1024, 1, 1, 0),)
    decoder_blocks: Sequence[Block] = _decoder_blocks()
    entropy_weight: float = 0.1  # training: pull towards confident and evenly used codes

    def __post_init__(self) -> None:
        for name in ("encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, as_blocks(name, getattr(self, name)))
        for name, most in (("code_px", MAX_KERNEL), ("num_codes", MAX_CODES), ("channels", 3)):
            if not _is_size(value := getattr(self, name), most):
                raise ValueError(
                    f"{name}={shown(value)}, expected a whole number from 1 to {most}; pass the "
                    "published network's."
                )
        if self.num_codes < 2 or self.num_codes.bit_count() != 1:
            raise ValueError(
                f"num_codes={self.num_codes} is not a power of two, but LPQ spends one bit per "
                f"channel (try num_codes={1 << max(1, self.num_codes).bit_length()})."
            )
        if self.channels not in (2, 3):
            raise ValueError(f"channels={self.channels}, expected 3 (RGB) or 2 (flow).")
        self._check_blocks()

    @property
    def bits(self) -> int:
        return self.num_codes.bit_length() - 1

    @property
    def width(self) -> int:
        """Channels between encoder, code and decoder."""
        return self.decoder_blocks[0][1]

    def _check_blocks(self) -> None:
        if not self.decoder_blocks:
            raise ValueError("decoder_blocks is empty, expected at least one block.")
        at = self.width
        for block in (*self.encoder_blocks, *self.decoder_blocks):
            kind, *sizes = block
            if sizes[0] != at:
                raise ValueError(
                    f"the block {block} is not one of this network: expected one "
                    f"reading {at} channels."
                )
            if kind == "ResBlock":
                _, out, _, kernel, stride, padding = sizes
                if out != at or stride != 1 or kernel != 2 * padding + 1:
                    raise ValueError(
                        f"the block {block} changes the size of what it is added to; expected as "
                        "many channels out as in, stride 1 and padding (kernel - 1) / 2."
                    )
            at = sizes[1]
        if any(kind != "ResBlock" or sizes[3] != 1 for kind, *sizes in self.encoder_blocks):
            raise ValueError(
                "an encoder block looks beyond its cell; expected ResBlocks of kernel 1, or codes "
                "would not be local."
            )
        doublings = sum(block[0] == "Upsample" for block in self.decoder_blocks)
        if 2**doublings != self.code_px:
            raise ValueError(
                f"the decoder doubles {doublings} times, which paints cells of {2**doublings} px, "
                f"but code_px={self.code_px}."
            )


def as_blocks(name: str, value: Any) -> tuple[Block, ...]:
    """The blocks that a config file lists under ``name``, as tuples.

    Raises:
        ValueError: they are no list of blocks of known kinds with sizes that can be built.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_BLOCKS:
        raise ValueError(f"{name}={shown(value)}, expected at most {MAX_BLOCKS} blocks in a list.")
    for block in value:
        if not _is_block(block):
            raise ValueError(
                f"the block {shown(block)} is not one of this network: expected ResBlock with six "
                f"sizes or Upsample with two, of at most {MAX_WIDTH} channels."
            )
    return tuple(map(tuple, value))


def _is_block(block: Any) -> bool:
    if not isinstance(block, list | tuple) or not block:
        return False
    kind, *sizes = block
    if kind == "Upsample":
        return len(sizes) == 2 and all(_is_size(size, MAX_WIDTH) for size in sizes)
    if kind != "ResBlock" or len(sizes) != 6:
        return False
    *widths, kernel, stride, padding = sizes
    fits = all(_is_size(size, MAX_WIDTH) for size in widths)
    fits = fits and _is_size(kernel, MAX_KERNEL) and _is_size(stride, MAX_KERNEL)
    return fits and (padding == 0 or _is_size(padding, MAX_KERNEL))


def _is_size(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


class LPQ(Quantizer):
    """Encode frames to a grid of codes, decode codes to frames; any size of whole cells.

    With ``channels=2`` frames are flow in px instead of RGB in [0, 1].
    """

    expected_rgb_means = "expected RGB: the frame that the mean code vector paints"

    def __init__(self, cfg: LPQConfig) -> None:
        nn.Module.__init__(self)  # subtle: Quantizer's own parts are other ones
        self.cfg = cfg
        px, width, last = cfg.code_px, cfg.width, cfg.decoder_blocks[-1][2]
        self.encoder = nn.Sequential(
            nn.Conv2d(cfg.channels, width, px, stride=px),
            nn.SiLU(),
            *map(_block, cfg.encoder_blocks),
        )
        self.project_in = nn.Linear(width, cfg.bits)
        self.bottleneck = LFQ(cfg.bits, cfg.entropy_weight)
        self.project_out = nn.Linear(cfg.bits, width)
        self.decoder = nn.Sequential(
            *map(_block, cfg.decoder_blocks), nn.Conv2d(last, cfg.channels, 3, padding=1)
        )
        rgb = cfg.channels == 3
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if rgb else ((0.0, 0.0), 2 * (FLOW_STD_PX,))
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(
        self, frames: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Int[Tensor, "batch rows cols"]]:
        """Mean squared reconstruction error, the bottleneck's penalty, and the codes."""
        latent = self.latent(frames)
        quantized, codes, penalty = self.bottleneck(latent.flatten(0, 2))
        painted = self.paint(quantized.view_as(latent)) * self.std + self.mean
        return F.mse_loss(painted, frames), penalty, codes.view(latent.shape[:3])

    def latent(
        self, frames: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch rows cols bits"]:
        """What becomes the bits of every cell's code, by its sign."""
        px, (height, width) = self.cfg.code_px, frames.shape[-2:]
        if height % px or width % px:
            raise ValueError(
                f"frames of {height}x{width} px do not hold a whole number of {px}-px cells; "
                f"resize them to multiples of {px}."
            )
        features = self.encoder((frames - self.mean) / self.std)
        return self.project_in(rearrange(features, "b c r s -> b r s c"))

    def paint(
        self, code_vectors: Float[Tensor, "batch rows cols bits"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The decoder's answer, normalized as its input was and not clamped."""
        return self.decoder(rearrange(self.project_out(code_vectors), "b r s c -> b c r s"))

    @torch.no_grad()
    def encode(
        self, frames: Float[Tensor, "batch channels height width"]
    ) -> Int[Tensor, "batch rows cols"]:
        """The code of every cell, in [0, num_codes); channel 0 is the most significant bit."""
        # Never in low precision, TF32 included: a code near a boundary would flip.
        with torch.autocast(frames.device.type, enabled=False), _full_precision():
            latent = self.latent(frames.float())
            codes = self.bottleneck(latent.flatten(0, 2))[1]
        return codes.view(latent.shape[:3])

    @torch.no_grad()
    def decode(
        self, codes: Int[Tensor, "batch rows cols"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The frame these codes paint: RGB in [0, 1], or flow in px."""
        return self._finish(self.paint(self.bottleneck.embed(codes)))

    @torch.no_grad()
    def expected_frames(
        self, chance: Float[Tensor, "batch rows cols codes"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The frame that the mean code vector of every cell paints.

        The decoder is not linear and not local, so this is no mean of painted frames; where one
        code is certain it is what ``decode`` paints.
        """
        every = torch.arange(self.cfg.num_codes, device=chance.device)
        return self._finish(self.paint(chance @ self.bottleneck.embed(every)))

    @torch.no_grad()
    def code_pixels(self) -> Float[Tensor, "codes pixels"]:
        """What each code paints without neighbors, as zero-centered cell vectors. Slow."""
        every = torch.arange(self.cfg.num_codes, device=self.mean.device)
        cells = [self.decode(part.view(-1, 1, 1)) for part in every.split(1024)]
        return torch.cat(cells).flatten(1) - 0.5

    def _finish(self, painted: Float[Tensor, "batch channels height width"]) -> Tensor:
        frames = painted * self.std + self.mean
        return frames.clamp(0, 1) if self.cfg.channels == 3 else frames


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 convolutions and products in float32, whatever the process allows elsewhere."""
    backends = torch.backends
    parts = (
        *(backends.cudnn.conv, backends.cuda.matmul),
        *(backends.mkldnn.conv, backends.mkldnn.matmul),
    )
    allowed = [part.fp32_precision for part in parts]
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by fp32_precision alone: torch refuses to name the older setting
        products = "highest"
    try:
        if products != "highest":
            torch.set_float32_matmul_precision("highest")
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        if products != "highest":
            torch.set_float32_matmul_precision(products)
        for part, value in zip(parts, allowed, strict=True):
            part.fp32_precision = value


class ResBlock(nn.Module):
    """Two convolutions behind a norm over channels; the activation comes before the sum.

    Dropout only where there is something to learn: without gradients (``encode``, ``decode``) the
    answer is the same in training and evaluation mode.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: int, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, hidden, kernel, stride, padding)
        self.conv2 = nn.Conv2d(hidden, outputs, kernel, stride, padding)

    def forward(
        self, x: Float[Tensor, "batch dim rows cols"]
    ) -> Float[Tensor, "batch dim rows cols"]:
        normed = rearrange(self.ln1(rearrange(x, "b d r c -> b r c d")), "b r c d -> b d r c")
        hidden = F.silu(self.conv1(normed))
        hidden = F.dropout(hidden, 0.1, self.training and torch.is_grad_enabled())
        return x + F.silu(self.conv2(hidden))


class Upsample(nn.Module):
    """Every pixel becomes 2x2, then a 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch dim rows cols"]) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _block(block: Block) -> nn.Module:
    kind, *sizes = block
    return (ResBlock if kind == "ResBlock" else Upsample)(*sizes)
