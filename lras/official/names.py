"""The published networks in our words: names of tensors, sizes and ranges.

A predictor's attention: published is one ``c_attn`` of 3n rows (query, key, value, one after
another), ours are three matrices. Its ids and positions are half-open ranges in the file's cfg,
our ``TokenRanges``. Nothing is assumed of a file that it says itself; what it does not say (the
size of a code cell) is the default here.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lras.config import PredictorConfig
from lras.lpq import LPQ, LPQConfig, as_blocks
from lras.shown import shown
from lras.vocab import TokenRanges

CODE_PX = 4  # px; the published quantizer's cell, which a predictor's cfg does not mention

# Our range -> the cfg's key. Those of RGB must be there.
RANGES = {
    "contents": "rgb_range",
    "pointers0": "rgb_patch_0_idx_range",
    "pointers1": "rgb_patch_1_idx_range",
    "places0": "frame_0_rgb_pos_range",
    "places1": "frame_1_rgb_pos_range",
    "flow": "flow_range",
    "flow_pointers": "flow_patch_idx_range",
    "flow_places": "flow_pos_range",
    "pose": "campose_range",
    "pose_pointer": "campose_patch_idx_range",
    "pose_places": "campose_pos_range",
}
_RGB = tuple(RANGES)[:5]
_PREDICTOR_SIZES = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size", "patch_size")

MAX_SIZE = 2**31  # no table is longer

# The weight of every bit of a code: an integer table in the file, a constant here.
QUANTIZER_MASK = "quantizer.mask"
QUANTIZER_SIZES = {
    "code_px": "patch_size",
    "num_codes": "vocab_size",
    "channels": "num_in_channels",
    "encoder_blocks": "encoder_blocks",
    "decoder_blocks": "decoder_blocks",
}
_QUANTIZER_SIZES = ("patch_size", "vocab_size", "num_in_channels")

_WHOLE = {
    "transformer.token_embedding.weight": "token_table.weight",
    "transformer.positional_embedding.weight": "place_table.weight",
    "transformer.ln_f.weight": "final_norm.weight",
    "lm_head.weight": "head.weight",
}
_OF_A_BLOCK = {
    "ln_1.weight": ("attention_norm.weight",),
    "attn.c_attn.weight": tuple(f"attention.{part}.weight" for part in ("query", "key", "value")),
    "attn.c_proj.weight": ("attention.out.weight",),
    "ln_2.weight": ("mlp_norm.weight",),
    "mlp.c_fc.weight": ("up.weight",),
    "mlp.c_proj.weight": ("down.weight",),
}


def official_names(num_layers: int) -> dict[str, tuple[str, ...]]:
    """Every published tensor and ours that, row after row, it consists of."""
    names = {theirs: (ours,) for theirs, ours in _WHOLE.items()}
    for layer in range(num_layers):
        for theirs, parts in _OF_A_BLOCK.items():
            ours = tuple(f"blocks.{layer}.{part}" for part in parts)
            names[f"transformer.h.{layer}.{theirs}"] = ours
    return names


def predictor_shapes(cfg: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a published predictor of this cfg has."""
    vocab, places, dim = (cfg[key] for key in ("vocab_size", "block_size", "n_embd"))
    whole = dict(zip(_WHOLE, ((vocab, dim), (places, dim), (dim,), (vocab, dim)), strict=True))
    block = ((dim,), (3 * dim, dim), (dim, dim), (dim,), (4 * dim, dim), (dim, 4 * dim))
    for layer in range(cfg["n_layer"]):
        for name, shape in zip(_OF_A_BLOCK, block, strict=True):
            whole[f"transformer.h.{layer}.{name}"] = shape
    return whole


def to_ours(official: Mapping[str, Tensor], num_layers: int) -> Iterator[tuple[str, Tensor]]:
    """Our names with views of the published tensors; copies nothing."""
    for theirs, ours in official_names(num_layers).items():
        yield from zip(ours, official[theirs].chunk(len(ours)), strict=True)


def quantizer_to_ours(official: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our names with the published tensors themselves."""
    for name, value in official.items():
        if name != QUANTIZER_MASK:
            yield name.removeprefix("quantizer."), value


def predictor_config(cfg: Mapping[str, Any], code_px: int = CODE_PX) -> PredictorConfig:
    """Our config of a published predictor's cfg.

    Raises:
        ValueError: the cfg lacks a size or an RGB range, has biases (the network has none), or its
            ranges contradict one another.
    """
    needed = [*_PREDICTOR_SIZES, *(RANGES[name] for name in _RGB)]
    missing = [key for key in needed if cfg.get(key) is None]
    if missing:
        raise ValueError(
            f"the predictor's cfg lacks {', '.join(missing)} (it holds {', '.join(sorted(cfg))}); "
            "pass a checkpoint of a published LRAS predictor."
        )
    _check_sizes(cfg, _PREDICTOR_SIZES)
    if cfg.get("bias"):
        raise ValueError(
            "the cfg says bias=True, but no published predictor has biases and neither has ours; "
            "pass a checkpoint trained with bias=False."
        )
    ranges = TokenRanges(**{name: _range(cfg, key) for name, key in RANGES.items()})
    _check_ranges(ranges, cfg)
    num_patches = ranges.pointers0[1] - ranges.pointers0[0]
    return PredictorConfig.official(
        image_size=math.isqrt(num_patches) * cfg["patch_size"] * code_px,
        patch_px=cfg["patch_size"] * code_px,
        code_px=code_px,
        num_codes=ranges.contents[1],
        dim=cfg["n_embd"],
        num_heads=cfg["n_head"],
        num_layers=cfg["n_layer"],
        vocab_size=cfg["vocab_size"],
        num_places=cfg["block_size"],
        ranges=ranges,
    )


def quantizer_config(cfg: Mapping[str, Any]) -> LPQConfig:
    """Our config of a published quantizer's cfg.

    Raises:
        ValueError: the cfg lacks a size, or describes another network than LPQ.
    """
    missing = [key for key in QUANTIZER_SIZES.values() if cfg.get(key) is None]
    if missing:
        raise ValueError(
            f"the quantizer's cfg lacks {', '.join(missing)} (it holds {', '.join(sorted(cfg))}); "
            "pass a checkpoint of a published LRAS quantizer."
        )
    _check_sizes(cfg, _QUANTIZER_SIZES)
    if cfg.get("num_codebooks", 1) != 1 or cfg.get("num_out_channels") != cfg["num_in_channels"]:
        raise ValueError(
            f"the cfg says num_codebooks={shown(cfg.get('num_codebooks'))} and num_out_channels="
            f"{shown(cfg.get('num_out_channels'))}, expected one codebook and as many channels out "
            f"as in ({cfg['num_in_channels']})."
        )
    sizes = {ours: cfg[theirs] for ours, theirs in QUANTIZER_SIZES.items()}
    sizes |= {name: as_blocks(name, sizes[name]) for name in ("encoder_blocks", "decoder_blocks")}
    return LPQConfig(**sizes)


def quantizer_shapes(cfg: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a published quantizer of this cfg has."""
    with torch.device("meta"):
        network = LPQ(quantizer_config(cfg))
    shapes = {
        f"quantizer.{name}" if name.startswith("project") else name: tuple(value.shape)
        for name, value in network.state_dict().items()
    }
    return shapes | {QUANTIZER_MASK: (network.cfg.bits,)}


def check_weights(kind: str, cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Whether the weights are those that the cfg of a ``predictor`` or ``quantizer`` promises.

    Raises:
        ValueError: cfg and tensors contradict one another, or the cfg itself.
    """
    if kind == "predictor":
        predictor_config(cfg)
        promised = len(_WHOLE) + len(_OF_A_BLOCK) * cfg["n_layer"]
        # A cfg may claim any number of layers; one for every tensor is too many already.
        expected = predictor_shapes({**cfg, "n_layer": min(cfg["n_layer"], len(weights))})
    else:
        expected = quantizer_shapes(cfg)
        promised = len(expected)
    missing = [name for name in expected if name not in weights]
    beyond = [name for name in weights if name not in expected]
    if missing or beyond:
        extra = "".join(shown(name).strip("'") for name in beyond[:1])
        what = f"lacks {missing[0]}" if missing else f"also holds {extra}"
        raise ValueError(
            f"the cfg promises {promised} tensors, but the file holds {len(weights)} and "
            f"{what}; cfg and weights are not of one {kind}."
        )
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"{name} is {tuple(weights[name].shape)}, but the cfg says {shape}; cfg and "
                f"weights are not of one {kind}."
            )
        if name != QUANTIZER_MASK and not weights[name].is_floating_point():
            raise ValueError(f"{name} is {weights[name].dtype}, expected floating point.")
    if kind == "quantizer":
        _check_mask(weights[QUANTIZER_MASK])


def _check_mask(mask: Tensor) -> None:
    powers = [2**bit for bit in reversed(range(len(mask)))]
    if mask.tolist() != powers:
        raise ValueError(
            f"{QUANTIZER_MASK} is {mask.tolist()[:3]}..., expected {powers[:3]}... (the first "
            "channel is the most significant bit); codes of another bit order are not supported."
        )


def _check_sizes(cfg: Mapping[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        if not _is_whole(cfg[key]) or not 1 <= cfg[key] <= MAX_SIZE:
            raise ValueError(
                f"the cfg says {key}={shown(cfg[key])}, expected a whole number from 1 to "
                f"{MAX_SIZE}; the file is damaged."
            )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _range(cfg: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    pair = cfg.get(key)
    if pair is None:
        return None
    whole = isinstance(pair, tuple | list) and all(map(_is_whole, pair))
    if not whole or len(pair) != 2 or not 0 <= pair[0] < pair[1]:
        raise ValueError(
            f"the cfg says {key}={shown(pair)}, expected two rising whole numbers; the file is "
            "damaged."
        )
    return tuple(pair)


def _check_ranges(ranges: TokenRanges, cfg: Mapping[str, Any]) -> None:
    """Ids fit the vocabulary without meeting, and RGB's sizes follow from one another."""
    given = {name: pair for name, pair in vars(ranges).items() if pair is not None}
    for name, (_, end) in given.items():
        table = "block_size" if "places" in name else "vocab_size"
        if end > cfg[table]:
            raise ValueError(
                f"the cfg says {RANGES[name]} ends at {end}, but {table}={cfg[table]}; the file "
                "contradicts itself, take another copy."
            )
    for kind in (True, False):
        ordered = sorted((pair, name) for name, pair in given.items() if ("places" in name) == kind)
        for (one, first), (other, second) in itertools.pairwise(ordered):
            if one[1] > other[0]:
                raise ValueError(
                    f"the cfg's ranges {RANGES[first]}={one} and {RANGES[second]}={other} overlap; "
                    "the file contradicts itself, take another copy."
                )
    size = {name: end - start for name, (start, end) in given.items()}
    patches, slots = size["pointers0"], 1 + cfg["patch_size"] ** 2
    if math.isqrt(patches) ** 2 != patches or size["pointers1"] != patches:
        raise ValueError(
            f"the cfg gives frame 0 and frame 1 {patches} and {size['pointers1']} patches, "
            "expected one square number of them; the file contradicts itself."
        )
    if (size["places0"], size["places1"]) != (patches * slots, patches * slots):
        raise ValueError(
            f"the cfg gives {patches} patches of {slots} tokens {size['places0']} and "
            f"{size['places1']} positions, expected {patches * slots} each; the file contradicts "
            "itself."
        )
    if ranges.contents[0]:
        raise ValueError(
            f"the cfg says rgb_range={ranges.contents}, expected one that starts at 0; other "
            "layouts of the vocabulary are not supported."
        )
