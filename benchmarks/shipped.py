"""A training as train.py builds it from the configs, for benchmarks that time and weigh its steps.

Only what has no part in a step is left out: the quantizer is a fresh one, nothing is validated, and
probe, pictures and checkpoints come at no step that is timed; their hooks are called at every one.
Batches are fixed noise where nobody hands in a data module.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch.utils.data import IterableDataset

from benchmarks.result_file import ROOT
from doors.building import build_module
from doors.checkpoints import CheckedCheckpointIO
from doors.random_state import RandomState
from doors.stopping import TimeLimit
from lras.checkpoint import save
from lras.predictor_module import PredictorModule
from train import named

NEVER = 1_000_000  # steps
RARELY = (
    f"callbacks.probe.every_n_steps={NEVER}",
    f"callbacks.pictures.every_n_steps={NEVER}",
    f"callbacks.checkpoint.every_n_train_steps={NEVER}",
    "callbacks.probe.sets.held_out.num_pairs=1",  # it looks at the untrained model in any case
)


def configured(folder: Path, *words: str) -> DictConfig:
    """The config of ``python train.py *words`` with its run in ``folder``."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", [*RARELY, *words], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)  # for ${hydra:runtime.output_dir} of the callbacks
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def fresh_module(cfg: DictConfig, folder: Path) -> PredictorModule:
    """The module that is trained, behind a quantizer whose codebook is noise."""
    torch.manual_seed(cfg.seed)
    quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    if quantizer.cfg.bottleneck == "kmeans":  # untrained it would name one code for all cells
        codebook = quantizer.bottleneck.codebook
        noise = torch.randn(4 * len(codebook), codebook.shape[1])
        quantizer.bottleneck.initialize(noise, torch.Generator().manual_seed(cfg.seed))
    with open_dict(cfg):
        cfg.quantizer = str(save(quantizer, folder / "quantizer"))
    return build_module(cfg, None, folder, None)


def shipped_trainer(cfg: DictConfig, folder: Path, *others: L.Callback) -> L.Trainer:
    """train.py's, with ``others`` behind its callbacks; one of them must end the training."""
    return instantiate(
        cfg.trainer,
        max_steps=cfg.trainer.max_steps or NEVER,
        max_time=None,
        callbacks=[TimeLimit(float("inf")), RandomState(), *named(cfg.callbacks), *others],
        logger=named(cfg.logger),
        plugins=[CheckedCheckpointIO()],
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_model_summary=False,
    )


class Given(IterableDataset):
    """The same batch for ever: what is measured is the step, not the data."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self.batch


def noise_batch(pairs: int, side: int, share: float, pinned: bool = False) -> dict[str, Any]:
    """Frames of random pixels; ``pinned`` ones are copied to a GPU without waiting."""
    generator = torch.Generator().manual_seed(0)
    size = pairs, 2, 3, side, side
    frames = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    return {"frames": frames.pin_memory() if pinned else frames, "frame1_share": share}


def wait_for(device: torch.device) -> None:
    """Until the device has done all that was asked of it; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
