"""What each of many devices holds when a predictor is trained with ``trainer=fsdp``.

Counted on the meta device: no weight is made. Rows per number of devices, bytes of float32 but for
what computes in ``trainer.precision``; what the libraries take for themselves is left out.
"""

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from torch import nn

from lras.predictor import FramePredictor

FLOAT = 4  # bytes of a float32: weights, gradients and optimizer states
DEVICES = (8, 16, 64)
DEVICE_GB = 80  # of the devices that a plan of billions is made for
BLOCKS_AT_ONCE = 2  # the one that computes, and the next one, which is being gathered


@dataclass(frozen=True, kw_only=True)
class Share:
    """Bytes on one of ``devices`` devices."""

    devices: int
    weights: int
    gradients: int
    states: int  # of the optimizer
    gathered: int  # whole weights and gradients, of what is needed at a time
    activations: int

    @property
    def total(self) -> int:
        parts = (self.weights, self.gradients, self.states, self.gathered, self.activations)
        return sum(parts)


def is_fsdp(cfg: DictConfig) -> bool:
    """Whether the trainer of this config shards."""
    return "ShardedStrategy" in str(OmegaConf.select(cfg, "trainer.strategy._target_"))


def share_of(predictor: FramePredictor, states: int, activations: int, devices: int) -> Share:
    """``states`` in bytes of the whole optimizer, ``activations`` in bytes of one device.

    Gathered are tables, norm and head for the whole of a step, weights and gradients of them, and
    two blocks likewise. What does not divide is rounded up, matrix by matrix, as FSDP2 pads rows.
    """
    own = sum(-(-p.shape[0] // devices) * p[0].numel() for p in predictor.parameters())
    blocks = [_count(block) for block in predictor.blocks]
    rest = _count(predictor) - sum(blocks)
    at_once = rest + BLOCKS_AT_ONCE * max(blocks)
    return Share(
        devices=devices,
        weights=own * FLOAT,
        gradients=own * FLOAT,
        states=-(-states // devices),
        gathered=2 * at_once * FLOAT,
        activations=activations,
    )


def sharded_table(
    predictor: FramePredictor,
    states: int,
    activations: int,
    numbers: tuple[int, ...] = DEVICES,
) -> Table:
    """A row for each number of devices."""
    table = Table(title=f"FSDP2: memory of each device, GB, of {_count(predictor):,} parameters")
    heads = ("devices", "weights", "gradients", "optimizer", "gathered", "activations", "all")
    for head in (*heads, f"fits {DEVICE_GB} GB"):
        table.add_column(head, justify="right")
    for devices in numbers:
        share = share_of(predictor, states, activations, devices)
        sizes = (share.weights, share.gradients, share.states, share.gathered, share.activations)
        fits = "yes" if share.total < DEVICE_GB * 1e9 else "no"
        words = (f"{size / 1e9:.2f}" for size in (*sizes, share.total))
        table.add_row(str(devices), *words, fits)
    return table


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
