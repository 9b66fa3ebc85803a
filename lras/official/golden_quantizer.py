"""The small quantizer's arrays, ours beside theirs: codes, their margins, what they paint."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lras.lpq import LPQ
from lras.official.checks import Check, close, exact

MARGIN = 1e-4  # codes whose least certain bit is nearer to zero than this may flip
FRAMES = ("frame0", "frame1", "frame0_perturbed")
Arrays = Mapping[str, np.ndarray]


@torch.no_grad()
def check_quantizer(quantizer: LPQ, images: Arrays, theirs: Arrays) -> Iterable[Check]:
    """Encoder, code vectors and decoder in float32."""
    frames = torch.stack([as_frame(images[name]) for name in FRAMES])
    latents = quantizer.latent(frames)
    codes, margins = quantizer.encode(frames), F.normalize(latents, dim=-1).abs().amin(-1)
    checks = []
    for index, name in enumerate(FRAMES):
        margin = theirs[f"margin_{name}"]
        expected = theirs[f"codes_{name}"]
        checks += [
            exact(f"quantizer_io:codes_{name}", codes[index], expected, margin < MARGIN),
            close(f"quantizer_io:margin_{name}", margins[index], margin),
        ]
    corner = ((frames[0] - quantizer.mean) / quantizer.std)[:, :8, :8]
    return [
        *checks,
        close("quantizer_io:input_norm_frame0_8x8", corner, theirs["input_norm_frame0_8x8"]),
        close("quantizer_io:proj_frame0_rows0_8", latents[0, :8], theirs["proj_frame0_rows0_8"]),
        *check_decoder(quantizer, frames[1], theirs),
    ]


def check_decoder(
    quantizer: LPQ, frame1: Float[Tensor, "3 height width"], theirs: Arrays
) -> list[Check]:
    """Code vectors and normalized pictures of their codes."""
    codes1 = torch.from_numpy(theirs["codes_frame1"])
    vectors = quantizer.project_out(quantizer.bottleneck.embed(codes1[:4, :4]))
    whole = _paint(quantizer, codes1)
    wanted = (frame1 - quantizer.mean) / quantizer.std
    small = _paint(quantizer, torch.from_numpy(theirs["dec_small_codes"]))
    return [
        close(
            "quantizer_io:emb_frame1_4x4",
            rearrange(vectors, "r c d -> d r c"),
            theirs["emb_frame1_4x4"],
        ),
        close("quantizer_io:dec_small", small, theirs["dec_small"]),
        close("quantizer_io:dec_full_rows96_128", whole[:, 96:128], theirs["dec_full_rows96_128"]),
        close("quantizer_io:dec_full_mean", whole.mean((1, 2)), theirs["dec_full_mean"]),
        close("quantizer_io:dec_full_std", whole.std((1, 2)), theirs["dec_full_std"]),
        close("quantizer_io:recon_mse", F.mse_loss(whole, wanted), theirs["recon_mse"]),
    ]


def as_frame(image: np.ndarray) -> Float[Tensor, "3 height width"]:
    """An 8-bit image, channels last, as a frame in [0, 1]."""
    return rearrange(torch.from_numpy(image).float() / 255, "h w c -> c h w")


def _paint(quantizer: LPQ, codes: Int[Tensor, "rows cols"]) -> Float[Tensor, "3 height width"]:
    return quantizer.paint(quantizer.bottleneck.embed(codes)[None])[0]
