"""Small checkpoint files in the published layout, written as their authors' scripts write them."""

from pathlib import Path
from typing import Any

import torch

from lras.lpq import LPQ
from lras.official.names import predictor_shapes, quantizer_config

PREDICTOR = {
    "config_class": "lras_3d.lras_3d.config.LRAS7B_Patch8_RGBConfig",
    "model_type": "lras_3d.utils.model_wrapper.WrappedModel",
    "model_class": "lras_3d.lras_3d.model.LRAS",
    "block_size": 40,
    "vocab_size": 24,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "patch_size": 2,
    "dropout": 0.0,
    "bias": False,
    "frame_0_rgb_pos_range": (0, 20),
    "frame_1_rgb_pos_range": (20, 40),
    "rgb_range": (0, 16),
    "rgb_patch_0_idx_range": (16, 20),
    "rgb_patch_1_idx_range": (20, 24),
}
# The same frames in a model that knows flow and camera poses, its ranges in another order.
RICH = PREDICTOR | {
    "block_size": 90,
    "vocab_size": 70,
    "frame_0_rgb_pos_range": (4, 24),
    "frame_1_rgb_pos_range": (60, 80),
    "rgb_patch_0_idx_range": (24, 28),
    "rgb_patch_1_idx_range": (40, 44),
    "flow_range": (16, 24),
    "flow_patch_idx_range": (28, 32),
    "flow_pos_range": (24, 60),
    "campose_range": (44, 60),
    "campose_patch_idx_range": (60, 61),
    "campose_pos_range": (80, 88),
}
QUANTIZER = {
    "config_class": "lras_3d.local_patch_quantizer.config.LPQConfig",
    "model_type": "lras_3d.utils.model_wrapper.WrappedModel",
    "model_class": "lras_3d.local_patch_quantizer.model.LPQ",
    "patch_size": 4,
    "dropout": 0.1,
    "vocab_size": 16,
    "num_codebooks": 1,
    "num_in_channels": 3,
    "num_out_channels": 3,
    "encoder_blocks": [("ResBlock", 8, 8, 16, 1, 1, 0)],
    "decoder_blocks": [("ResBlock", 8, 8, 16, 3, 1, 1), ("Upsample", 8, 6), ("Upsample", 6, 4)],
}


def predictor_weights(
    cfg: dict[str, Any], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).to(dtype) / 2
        for name, shape in predictor_shapes(cfg).items()
    }


def quantizer_weights(cfg: dict[str, Any]) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = LPQ(quantizer_config(cfg)).state_dict()
    bits = cfg["vocab_size"].bit_length() - 1
    named = {f"quantizer.{k}" if k.startswith("project") else k: v for k, v in own.items()}
    return named | {"quantizer.mask": torch.tensor([2 ** (bits - 1 - b) for b in range(bits)])}


def write_file(
    path: Path,
    cfg: dict[str, Any],
    weights: dict[str, torch.Tensor] | None = None,
    key: str = "weights",
    prefix: str = "_orig_mod.",
    **other: Any,
) -> Path:
    """``weights``: those that the cfg promises, unless others are handed in."""
    if weights is None:
        weights = predictor_weights(cfg) if "n_layer" in cfg else quantizer_weights(cfg)
    torch.save({key: {prefix + k: v for k, v in weights.items()}, "cfg": cfg} | other, path)
    return path
