"""Textured scenes with exact flow and visibility, rendered in batches by plain torch.

A scene is a background and up to a few star-shaped sprites. Each layer carries a texture, lies
under an affine map and moves by its own rotation, scale and translation between frame 0 and
frame 1. Flow and visibility follow from the same maps, so they are exact, not estimated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.coords import pixel_centers
from data.types import PointPairs


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What scenes look like. One curriculum stage is one of these."""

    size: int = 64  # px, square
    max_motion_px: float = 8.0  # translation between the frames, per axis
    snap_px: int = 0  # translations are multiples of this; 0 = sub-pixel
    sprites: int = 0  # most sprites in front of the background; each scene draws 0..sprites
    min_sprites: int = 0
    rotation_deg: float = 0.0  # most rotation between the frames, each layer
    scale: float = 0.0  # most relative change of size between the frames, each layer
    still: float = 0.1  # share of scenes whose background does not move
    texels_per_px: Sequence[float] = (0.6, 1.4)  # lowest, highest; > 1.5: rough; < 1: smooth
    roughest: float = 1.0  # share of the bank's textures in use, the roughest first

    def __post_init__(self) -> None:
        object.__setattr__(self, "texels_per_px", tuple(self.texels_per_px))
        if not 0 <= self.min_sprites <= self.sprites:
            raise ValueError(
                f"min_sprites={self.min_sprites} is not between 0 and sprites={self.sprites}."
            )
        if self.snap_px and (self.rotation_deg or self.scale):
            raise ValueError(
                "snap_px > 0 asks for whole-step motion, which rotation_deg or scale would break; "
                "set them to 0 or snap_px to 0."
            )


class SceneBatch(NamedTuple):
    """Rendered pairs. ``visible``: the pixel of frame 0 is still in view in frame 1."""

    frame0: Float[Tensor, "batch 3 height width"]  # [0, 1]
    frame1: Float[Tensor, "batch 3 height width"]
    flow: Float[Tensor, "batch 2 height width"]  # px
    visible: Bool[Tensor, "batch height width"]
    layer: Int[Tensor, "batch height width"]  # 0 = background, then front to front-most sprite


class Layers(NamedTuple):
    """Geometry of every layer of every scene; (batch, layers) leading axes, background first."""

    center: Float[Tensor, "batch layers 2"]  # px, place of the layer's origin in frame 0
    shift: Float[Tensor, "batch layers 2"]  # px, motion of that origin
    turn: Float[Tensor, "batch layers 2 2"]  # rotation and scale about the origin, frame 0 -> 1
    radius: Float[Tensor, "batch layers"]  # px; infinite for the background, 0 = absent
    waves: Float[Tensor, "batch layers 3 2"]  # amplitude and phase of the outline's harmonics
    texture: Int[Tensor, "batch layers"]
    texture_map: Float[Tensor, "batch layers 2 2"]  # texels per px
    texture_shift: Float[Tensor, "batch layers 2"]  # texels


def roughness(textures: Float[Tensor, "bank 3 side side"]) -> Float[Tensor, " bank"]:
    """How much neighboring texels differ, relative to the texture's contrast."""
    step = (textures[..., 1:] - textures[..., :-1]).square().mean((1, 2, 3))
    return step / textures.var(dim=(1, 2, 3)).clamp_min(1e-6)


class SceneSampler:
    """Draws scenes from a bank of textures. Everything random comes from the generator."""

    def __init__(self, cfg: SceneConfig, textures: Float[Tensor, "bank 3 side side"]) -> None:
        kept = max(1, round(cfg.roughest * len(textures)))
        rank = roughness(textures).argsort(descending=True)[:kept]
        self.cfg, self.textures = cfg, textures[rank.sort().values]

    def sample(self, batch: int, generator: torch.Generator) -> SceneBatch:
        """A batch of new scenes."""
        return self.render(self.draw(batch, generator))

    def draw(self, batch: int, generator: torch.Generator) -> Layers:
        """Random geometry of a batch of scenes."""
        cfg, count = self.cfg, 1 + self.cfg.sprites
        device = self.textures.device

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            noise = torch.rand(batch, count, *shape, generator=generator, device=device)
            return low + (high - low) * noise

        center = uniform(2, low=0.1, high=0.9) * cfg.size
        shift = uniform(2, low=-1.0) * cfg.max_motion_px
        if cfg.snap_px:
            steps = int(cfg.max_motion_px // cfg.snap_px)
            shift = (uniform(2, low=-steps - 0.5, high=steps + 0.5)).round() * cfg.snap_px
        angle = uniform(low=-1.0) * math.radians(cfg.rotation_deg)
        turn = _rotation(angle) * (1 + uniform(low=-1.0) * cfg.scale)[..., None, None]
        still = (uniform() < cfg.still) & (torch.arange(count, device=device) == 0)
        shift = shift.masked_fill(still[..., None], 0.0)
        turn = torch.where(still[..., None, None], torch.eye(2, device=device), turn)

        radius = uniform(low=0.14, high=0.34) * cfg.size
        span = cfg.sprites - cfg.min_sprites + 1
        present = cfg.min_sprites + (uniform()[:, :1] * span).floor()
        radius = torch.where(torch.arange(count, device=device) <= present, radius, 0.0)
        radius[:, 0] = math.inf
        amplitude = uniform(3, low=0.0, high=0.2)
        phase = uniform(3, high=2 * math.pi)
        density = uniform(low=cfg.texels_per_px[0], high=cfg.texels_per_px[1])
        return Layers(
            center=center,
            shift=shift,
            turn=turn,
            radius=radius,
            waves=torch.stack([amplitude, phase], dim=-1),
            texture=(uniform() * len(self.textures)).long(),
            texture_map=_rotation(uniform(high=2 * math.pi)) * density[..., None, None],
            texture_shift=uniform(2) * self.textures.shape[-1],
        )

    def render(self, layers: Layers) -> SceneBatch:
        """Paint both frames, back to front, and read flow and visibility off the same maps."""
        device, size = self.textures.device, self.cfg.size
        points = pixel_centers(size, size).to(device).view(1, 1, -1, 2)
        inside = points - layers.center[:, :, None]  # frame 0, relative to each layer's origin
        # Displacement itself, not a difference of places: whole steps stay whole in float32.
        moves = inside @ layers.turn.mT - inside + layers.shift[:, :, None]
        from1 = points - (layers.center + layers.shift)[:, :, None]
        from1 = from1 @ torch.linalg.inv(layers.turn).mT  # frame 1 pixels, back in frame-0 axes

        alpha0, alpha1 = _coverage(inside, layers), _coverage(from1, layers)
        frame0 = self._paint(inside, alpha0, layers)
        frame1 = self._paint(from1, alpha1, layers)

        layer = _front(alpha0 > 0.5)  # (batch, pixels)
        pick = repeat(layer, "b n -> b 1 n two", two=2)
        flow = torch.gather(moves, 1, pick)[:, 0]  # (batch, pixels, 2)
        target = points[:, 0] + flow
        visible = self._in_view(target, layer, layers)
        grid = {"h": size, "w": size}
        return SceneBatch(
            frame0,
            frame1,
            rearrange(flow, "b (h w) c -> b c h w", **grid),
            rearrange(visible, "b (h w) -> b h w", **grid),
            rearrange(layer, "b (h w) -> b h w", **grid),
        )

    def _in_view(self, target: Tensor, layer: Tensor, layers: Layers) -> Tensor:
        """Targets inside frame 1 and not behind a layer in front of their own."""
        local = target[:, None] - (layers.center + layers.shift)[:, :, None]
        covering = _coverage(local @ torch.linalg.inv(layers.turn).mT, layers) > 0.5
        in_front = torch.arange(covering.shape[1], device=layer.device)[:, None] > layer[:, None]
        inside = ((target >= 0) & (target < self.cfg.size)).all(-1)
        return inside & ~(covering & in_front).any(1)

    def _paint(self, local: Tensor, alpha: Tensor, layers: Layers) -> Tensor:
        """Composite all layers; ``local`` are pixel places relative to each layer's origin."""
        side, size = self.textures.shape[-1], self.cfg.size
        texels = local @ layers.texture_map.mT + layers.texture_shift[:, :, None]
        where = rearrange(2 * texels / side - 1, "b l (h w) c -> (b l) h w c", h=size)
        bank = self.textures[layers.texture.flatten()]
        color = F.grid_sample(bank, where, padding_mode="reflection", align_corners=False)
        color = rearrange(color, "(b l) c h w -> l b c h w", b=len(local))
        opacity = rearrange(alpha, "b l (h w) -> l b 1 h w", h=size)
        frame = color[0]
        for over, weight in zip(color[1:], opacity[1:], strict=True):
            frame = frame + weight * (over - frame)
        # Frames are images of 8-bit cameras, like every other source of training pairs.
        return (frame * 255).round() / 255


def _rotation(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n 2 2"]:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def _coverage(
    local: Float[Tensor, "batch layers pixels 2"], layers: Layers
) -> Float[Tensor, "batch layers pixels"]:
    """Antialiased opacity of every layer: 1 inside its outline, 0 outside, a ramp of one pixel."""
    distance = local.norm(dim=-1)
    angle = torch.atan2(local[..., 1], local[..., 0])[..., None]
    amplitude, phase = layers.waves[:, :, None].unbind(-1)
    harmonic = torch.arange(2, 5, device=local.device)
    outline = 1 + (amplitude * torch.cos(harmonic * angle + phase)).sum(-1)
    radius = layers.radius[..., None]
    alpha = (radius * outline - distance + 0.5).clamp(0, 1)
    return torch.where(radius > 0, alpha, 0.0)


def _front(covers: Bool[Tensor, "batch layers pixels"]) -> Int[Tensor, "batch pixels"]:
    """Index of the front-most layer that covers each pixel."""
    rank = torch.arange(covers.shape[1], device=covers.device)[:, None]
    return torch.where(covers, rank, 0).amax(1)


def point_pairs(
    scenes: SceneBatch,
    points_per_pair: int,
    generator: torch.Generator,
    min_motion_px: float = 0.0,
    name: str = "synthetic",
    max_motion_px: float = math.inf,
    visible_only: bool = True,
) -> PointPairs:
    """Query points drawn uniformly over pixels that move by ``min_motion_px`` to ``max_motion_px``.

    Points are pixel centers. Pairs with too few such pixels are padded (``valid`` False).
    ``visible_only`` leaves out pixels that are hidden in frame 1.
    """
    batch, _, height, width = scenes.flow.shape
    length = scenes.flow.norm(dim=1)
    eligible = ((length >= min_motion_px) & (length <= max_motion_px)).flatten(1)
    if visible_only:
        eligible &= scenes.visible.flatten(1)
    noise = torch.rand(batch, height * width, generator=generator)
    ranked = noise.masked_fill(~eligible, -1.0).topk(points_per_pair, dim=1)
    centers = pixel_centers(height, width).flatten(0, 1)
    points = centers[ranked.indices]
    flow = rearrange(scenes.flow, "b c h w -> b (h w) c")
    moved = torch.gather(flow, 1, repeat(ranked.indices, "b p -> b p two", two=2))
    valid = ranked.values >= 0
    return PointPairs(
        frame0=scenes.frame0,
        frame1=scenes.frame1,
        points=points,
        target=points + moved,
        visible=valid & torch.gather(scenes.visible.flatten(1), 1, ranked.indices),
        valid=valid,
        name=name,
        layer=torch.gather(scenes.layer.flatten(1), 1, ranked.indices),
    )
