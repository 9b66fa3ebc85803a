"""From a config to the model that is evaluated, and to the untrained one it is compared with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from omegaconf import DictConfig
from rich.console import Console

from lras.attend import Backend
from lras.checkpoint import load
from lras.memory import check_memory, needed
from lras.next_frame import NextFrame, Vocabulary
from lras.official.read_out import PatchParallelNextFrame
from lras.offload import offload_blocks
from lras.predictor import FramePredictor

WORTH_SAYING = 10**9  # bytes; smaller models need nothing that is worth a line
READ_AS = {"apart": NextFrame, "published": PatchParallelNextFrame}  # by cfg.hidden_patches
KNOWN = {
    "dtype": (None, "float64", "float32", "bfloat16", "float16"),
    "attention": get_args(Backend),
    "hidden_patches": tuple(READ_AS),
    "vocabulary": get_args(Vocabulary),
}


def load_model(cfg: DictConfig, console: Console) -> NextFrame:
    """What ``ckpt`` and ``quantizer`` name; says what it needs before weights are loaded.

    Raises:
        FileNotFoundError, ValueError: as ``lras.checkpoint.load``; there is too little memory; or
            the model cannot be read as ``hidden_patches`` and ``vocabulary`` ask.
    """
    _check_words(cfg)
    dtype = None if cfg.dtype is None else getattr(torch, cfg.dtype)
    # The untrained control is a second predictor.
    need = needed(cfg.ckpt, cfg.max_batch, dtype, cfg.offload, copies=2 if cfg.controls else 1)
    if need.total + need.waiting > WORTH_SAYING:
        console.print(f"{cfg.ckpt} needs {need}", soft_wrap=True, highlight=False, markup=False)
    check_memory(need, cfg.device, cfg.offload)
    named = {"quantizer": cfg.quantizer, "dtype": dtype, "offload": cfg.offload}
    model = load(cfg.ckpt, cfg.device, **named)
    read_as = READ_AS[cfg.hidden_patches]
    read = read_as(model.quantizer, model.predictor, cfg.vocabulary).eval()
    read.attention = cfg.attention
    return read


def _check_words(cfg: DictConfig) -> None:
    for name, known in KNOWN.items():
        if cfg[name] not in known:
            *others, last = [word for word in known if word]
            raise ValueError(f"{name}={cfg[name]} is not known; use {', '.join(others)} or {last}.")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What is made without a dtype is of this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def untrained_like(model: NextFrame, seed: int, offload: bool = False) -> NextFrame:
    """The same architecture with fresh weights behind the same quantizer, read the same way.

    The weights are drawn where they are to lie, in the model's own dtype: nothing larger is ever
    held. With ``offload`` its blocks wait in CPU memory as those of the model do.
    """
    like = model.predictor.token_table.weight
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with torch.device("cpu") if offload else like.device, default_dtype(like.dtype):
            predictor = FramePredictor(model.predictor.cfg)
        for matrix in predictor.blocks.parameters():
            # Training starts with silent blocks; a silent network would be no control at all.
            if not matrix.any():
                torch.nn.init.normal_(matrix, std=0.02)
    if offload:
        offload_blocks(predictor, like.device)
    if predictor.pixel_embed is not None:
        predictor.set_code_pixels(model.quantizer.code_pixels())
    made = type(model)(model.quantizer, predictor, model.vocabulary)
    made.attention = model.attention
    return made.eval().requires_grad_(False)
