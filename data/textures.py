"""Banks of square textures: procedural noise, and photographs that ship inside two libraries.

Training and evaluation banks never share a texture: their noise has other seeds, and the photos of
``EVALUATION_PHOTOS`` are kept for evaluation.
"""

import importlib.util
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

log = logging.getLogger(__name__)

# scikit-image's motorcycle pair is left out on purpose: it is a Middlebury stereo pair that
# flow evaluations use.
TRAINING_PHOTOS = {
    "skimage": (
        "data/astronaut.png",
        "data/brick.png",
        "data/chelsea.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/ihc.png",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
EVALUATION_PHOTOS = {"skimage": ("data/coffee.png",)}


def noise_textures(
    count: int, side: int, generator: torch.Generator
) -> Float[Tensor, "count 3 side side"]:
    """Multi-octave color noise in [0, 1]: octaves of 2..side cells, each fainter than the last.

    The fall-off and the mix of the three channels are drawn per texture, so some are smooth and
    gray and others harsh and colorful.
    """
    fall = 0.3 + torch.rand(count, 1, 1, 1, generator=generator)
    total = torch.zeros(count, 3, side, side)
    octaves = side.bit_length() - 1
    for octave in range(1, octaves + 1):
        cells = torch.randn(count, 3, 2**octave, 2**octave, generator=generator)
        layer = F.interpolate(cells, size=side, mode="bicubic", align_corners=False)
        total += 0.5 ** (octave * fall) * layer
    mix = torch.eye(3) + 0.7 * torch.randn(count, 3, 3, generator=generator)
    total = torch.einsum("n c d, n d h w -> n c h w", mix, total)
    total = total - total.mean((-1, -2), keepdim=True)
    contrast = 0.12 + 0.14 * torch.rand(count, 1, 1, 1, generator=generator)
    total = total / total.std((1, 2, 3), keepdim=True) * contrast
    base = 0.3 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    return (base + total).clamp(0, 1)


def photo_textures(
    files: dict[str, tuple[str, ...]], count: int, side: int, generator: torch.Generator
) -> Float[Tensor, "found 3 side side"]:
    """Random square crops of the photos that are installed, resized to ``side``; may be empty."""
    photos = []
    for package, names in files.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            log.warning("%s is not installed: its photos are left out of the textures", package)
            continue
        for name in names:
            path = Path(spec.origin).parent / name
            photos.append(decode_image(str(path), mode=ImageReadMode.RGB).float() / 255)
    crops = []
    for index in range(count if photos else 0):
        photo = photos[index % len(photos)]
        height, width = photo.shape[-2:]
        span = torch.rand((), generator=generator) * 0.6 + 0.4
        crop = max(side, int(span * min(height, width)))
        top = int(torch.randint(max(1, height - crop + 1), (), generator=generator))
        left = int(torch.randint(max(1, width - crop + 1), (), generator=generator))
        window = photo[None, :, top : top + crop, left : left + crop]
        crops.append(F.interpolate(window, size=(side, side), mode="area")[0])
    return torch.stack(crops) if crops else torch.zeros(0, 3, side, side)


def texture_bank(
    split: str, seed: int = 0, count: int = 600, side: int = 128
) -> Float[Tensor, "count 3 side side"]:
    """The textures of a split, ``train`` or ``eval``: 60 % noise, 40 % photo crops where there are.

    Raises:
        ValueError: another split's name.
    """
    if split not in ("train", "eval"):
        raise ValueError(f"got split={split!r}, expected 'train' or 'eval'.")
    generator = torch.Generator().manual_seed(2 * seed + (split == "eval"))
    files = TRAINING_PHOTOS if split == "train" else EVALUATION_PHOTOS
    photos = photo_textures(files, int(0.4 * count), side, generator)
    return torch.cat([photos, noise_textures(count - len(photos), side, generator)])
