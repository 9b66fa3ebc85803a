"""Models and questions that the engine is measured with: sizes as trained, weights at random.

What is measured does not depend on what a model has learned, but weights must be loud: fresh ones
would leave every prediction the same, whatever frame 0 holds.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.result_file import ROOT
from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer

SEED = 0
SHARPNESS = 2.0  # of attention, about that of trained models
SHIFT_PX = (3, 5)  # down, right: frame 0 to frame 1


@dataclass(frozen=True)
class Layout:
    """A model of configs/model, at a size of frames."""

    name: str
    preset: str
    image_px: int

    @property
    def title(self) -> str:
        cfg = OmegaConf.load(ROOT / "configs" / "model" / f"{self.preset}.yaml").predictor.cfg
        patches, codes = (self.image_px // cfg.patch_px) ** 2, (cfg.patch_px // cfg.code_px) ** 2
        return (
            f"{self.name}: P = {patches} patches, K = {codes} codes, dim {cfg.dim}, "
            f"{cfg.num_layers} layers, {cfg.num_codes:,} codes"
        )


LARGE = Layout("large", "lras_micro", 256)
NANO = Layout("nano", "lras_nano", 64)


def random_model(layout: Layout, device: str = "cpu") -> NextFrame:
    """The preset with loud random weights, made for frames of the layout's size."""
    about = OmegaConf.load(ROOT / "configs" / "model" / f"{layout.preset}.yaml")
    about.predictor.cfg.image_size = layout.image_px
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        quantizer: Quantizer = instantiate(about.quantizer, _convert_="object")
        predictor: FramePredictor = instantiate(about.predictor, _convert_="object")
        with torch.no_grad():
            make_loud(quantizer, predictor)
            frames = torch.cat([random_frame(256, seed) for seed in range(SEED, SEED + 4)])
            quantizer.initialize(frames, torch.Generator().manual_seed(SEED))
            predictor.set_code_pixels(quantizer.code_pixels())
    return NextFrame(quantizer, predictor).eval().requires_grad_(False).to(device)


def make_loud(quantizer: Quantizer, predictor: FramePredictor) -> None:
    """Weights for which codes, attention and logits all vary."""
    for gain, part in ((4.0, quantizer.encoder), (1.5, predictor.blocks)):
        for weight in part.parameters():
            if weight.ndim == 2:
                weight.normal_(std=gain * weight.shape[1] ** -0.5)
    predictor.token_table.weight.normal_(std=0.1)
    for block in predictor.blocks:
        block.attention.sharpness.fill_(SHARPNESS)


def random_frame(side: int, seed: int) -> Float[Tensor, "1 3 side side"]:
    """Smooth noise, dark to medium, so that a white bump shows everywhere."""
    coarse = torch.rand(1, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return 0.6 * F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)


def random_pair(
    layout: Layout, device: str = "cpu", seed: int = SEED
) -> tuple[Float[Tensor, "1 3 side side"], Float[Tensor, "1 3 side side"]]:
    """A frame and the same frame moved, wrapped round its borders."""
    frame0 = random_frame(layout.image_px, seed)
    return frame0.to(device), frame0.roll(SHIFT_PX, dims=(-2, -1)).to(device)


def scattered(layout: Layout, count: int, seed: int = SEED) -> Float[Tensor, "1 points 2"]:
    """Points uniform over the frame; the first ones of a seed stay when more are drawn."""
    generator = torch.Generator().manual_seed(seed + 1)
    unit = torch.rand(count, 2, generator=generator, dtype=torch.float64).float()
    return unit[None] * layout.image_px


def dense(grid: PatchGrid, count: int) -> Float[Tensor, "1 points 2"]:
    """Centers of patches: a square block from the middle, or all of them; row-major."""
    centers = grid.patch_centers().unflatten(0, (grid.rows, grid.cols))
    side = min(grid.rows, max(1, round(count**0.5)))
    start = (grid.rows - side) // 2
    return centers[start : start + side, start : start + side].reshape(1, -1, 2)
