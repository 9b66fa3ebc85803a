"""A predictor larger than the accelerator: blocks wait in CPU memory and visit one at a time."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from lras.layers import Block
from lras.predictor import FramePredictor


def offload_blocks(predictor: FramePredictor, device: torch.device) -> None:
    """Tables, norm and head move to ``device``; each block does only while it computes.

    Slower by the time that all blocks' weights need to cross the bus in every forward.
    """
    for name, child in predictor.named_children():
        if name != "blocks":
            child.to(device)
    for name, buffer in predictor.named_buffers(recurse=False):
        setattr(predictor, name, buffer.to(device))
    for block in predictor.blocks:
        for name in (
            "forward",
            "read_on",
            "read_groups",
            "read_parts",
        ):  # the ways in which a block is run
            setattr(block, name, _visiting(block, getattr(block, name), device))


def _visiting(block: Block, run: Callable, device: torch.device) -> Callable:
    @wraps(run)
    def visit(*given: Any, **named: Any) -> Any:
        at_home = {name: weight.data for name, weight in block.named_parameters()}
        try:
            for weight in block.parameters():
                weight.data = weight.data.to(device, non_blocking=True)
            return run(*given, **named)
        finally:
            for name, weight in block.named_parameters():
                weight.data = at_home[name]

    return visit
