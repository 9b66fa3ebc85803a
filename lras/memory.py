"""How much memory reading a model's answers takes, estimated before its weights are loaded."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from lras.checkpoint import part_of, predictor_config_of, read
from lras.config import PredictorConfig
from lras.layers import SCORES


@dataclass(frozen=True)
class Need:
    """Bytes on the device: of weights, and of ``sequences`` that are predicted at a time.

    ``waiting``: bytes of offloaded blocks in main memory. ``copies`` predictors of ``itemsize``
    bytes a number are counted.
    """

    weights: int
    work: int
    sequences: int
    waiting: int = 0
    copies: int = 1
    itemsize: int = 4

    @property
    def total(self) -> int:
        return self.weights + self.work

    def __str__(self) -> str:
        many = f"{self.sequences} sequence{'s' if self.sequences > 1 else ''} at a time"
        waiting = f" and {self.waiting / 1e9:.1f} GB of main memory" if self.waiting else ""
        return (
            f"about {self.total / 1e9:.1f} GB ({self.weights / 1e9:.1f} for weights, "
            f"{self.work / 1e9:.1f} for {many}){waiting}"
        )


def needed(
    path: str | Path,
    max_batch: int,
    dtype: torch.dtype | None = None,
    offload: bool = False,
    copies: int = 1,
) -> Need:
    """What predicting every code of frame 1 with the model at ``path`` needs beside a quantizer.

    Reads no weights. ``dtype``: of the predictor, None = as in the file. With ``offload`` one
    block's weights are on the device at a time. ``copies``: how many such predictors there will be.

    Raises:
        FileNotFoundError, ValueError: nothing to load at ``path``, or no predictor.
    """
    about, weights = read(path)
    cfg = predictor_config_of(about, path)
    weights = part_of(weights, "predictor.")
    sizes = {
        name: value.numel() * (dtype or value.dtype).itemsize for name, value in weights.items()
    }
    in_blocks = sum(size for name, size in sizes.items() if name.startswith("blocks."))
    held = in_blocks // cfg.num_layers if offload else in_blocks
    each = (dtype or weights["token_table.weight"].dtype).itemsize
    total = copies * (sum(sizes.values()) - in_blocks + held)
    waiting = copies * in_blocks if offload else 0
    return Need(total, _work(cfg, max_batch, each), max_batch, waiting, copies, each)


def _work(cfg: PredictorConfig, max_batch: int, each: int) -> int:
    """Bytes that a clean and a perturbed prediction hold together.

    Keys and values of frame 0 and a quarter of frame 1, attention scores, logits of all codes.
    """
    patches = cfg.grid.num_patches
    given = patches * (1 + cfg.codes_per_patch) * 5 // 4  # tokens
    asked = patches * cfg.codes_per_patch
    keys_and_values = 2 * cfg.num_layers * given * cfg.dim * each
    logits = asked * cfg.num_codes * (each + 20)  # as computed, then as float32 five times
    scores = min(SCORES, max_batch * cfg.num_heads * asked * given) * (3 * each + 8)
    return max_batch * (keys_and_values + logits) + scores


def check_memory(need: Need, device: str, offload: bool = False) -> None:
    """Raise ValueError where ``device`` or main memory has less than is needed (an estimate).

    The sentence names only settings that would still change something.
    """
    on_device = torch.device(device).type == "cuda"
    in_main = need.waiting + (0 if on_device else need.total)
    places = [("main memory", in_main, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    if on_device:
        places.insert(0, (device, need.total, torch.cuda.mem_get_info(device)[0]))
    for place, wanted, there in places:
        if wanted > there:
            where = device if place == device or not on_device else place
            ways = _ways_out(need, for_work=wanted != need.waiting, onto=on_device and not offload)
            raise ValueError(
                f"the model needs {need}, but {where} has {there / 1e9:.1f} GB; try {ways}."
            )


def _ways_out(need: Need, for_work: bool, onto: bool) -> str:
    """Settings that lower the need; ``for_work``: what is predicted at a time counts too.

    ``onto``: blocks are on the device now and could wait in main memory.
    """
    ways = ["dtype=bfloat16"] if need.itemsize > 2 else []
    fewer = for_work and need.sequences > 1
    ways += [f"max_batch={need.sequences // 2}"] if fewer else []
    ways += ["controls=false"] if need.copies > 1 else []
    ways += ["offload=true"] if onto else []
    return " or ".join(ways) or "a smaller model or a larger machine"
