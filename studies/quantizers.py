"""The quantizer of a seed: trained once, by whichever run of the study comes first."""

import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data.claims import sweep
from data.curriculum import SyntheticDataModule
from data.index import partial_path
from doors.building import train_quantizer
from doors.ranks import rank_or_any
from doors.run_record import sha256
from lras.checkpoint import load_quantizer, save
from lras.export_files import is_export
from studies.claimed import claimed
from tracing.benchmarks.provenance import provenance

log = logging.getLogger("train")

LOOK_EVERY_S = 1.0


def shared_quantizer(cfg: DictConfig, data: SyntheticDataModule, study: Path) -> Path:
    """An export in ``study`` that every run of this seed and these scenes shares.

    It is the same whatever the budget, the size, the machine's number of processes and the order of
    the runs: one process trains it on its own, and all others wait.
    """
    path = quantizer_path(cfg, data, study)
    while not is_export(path):
        if rank_or_any():
            time.sleep(LOOK_EVERY_S)
            continue
        with claimed(study / ".claims" / f"quantizer-{path.name}") as ours:
            if ours and not is_export(path):
                _train(cfg, data, path)
        if not ours:
            time.sleep(LOOK_EVERY_S)
    log.info("quantizer %s: %s", load_quantizer(path).fingerprint(), path)
    return path


def quantizer_path(cfg: DictConfig, data: SyntheticDataModule, study: Path) -> Path:
    """Where it is, or will be: named by all that its weights follow from."""
    told = json.dumps(what_decides(cfg, data), sort_keys=True, default=str)
    return study / "quantizers" / f"seed{cfg.seed}-{sha256(told)[:8]}"


def what_decides(cfg: DictConfig, data: SyntheticDataModule) -> dict[str, Any]:
    """All that the quantizer's weights follow from, as plain data."""
    kinds = [{"batch": stage.batch, "scene": asdict(stage.scene)} for stage in data.stages]
    return {
        "quantizer": OmegaConf.to_container(cfg.model.quantizer, resolve=True),
        "steps": cfg.quantizer_steps,
        "seed": cfg.seed,
        "textures": data.textures,
        "stages": kinds,
    }


def _train(cfg: DictConfig, data: SyntheticDataModule, path: Path) -> None:
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    L.seed_everything(cfg.seed, verbose=False)
    alone = cfg.copy()
    alone.trainer = OmegaConf.merge(
        {k: v for k, v in cfg.trainer.items() if k != "strategy"}, {"devices": 1}
    )
    if "num_nodes" in alone.trainer:
        alone.trainer.num_nodes = 1
    # As many steps of every stage as the quantizer takes: what it sees then does not depend on
    # the run's budget.
    kinds = [replace(stage, steps=cfg.quantizer_steps) for stage in data.stages]
    scenes = SyntheticDataModule(
        kinds, data.seed, data.num_workers, data.val_batches, data.textures
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep([path.parent])  # what a process that was killed has left
    partial = partial_path(path)
    quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    quantizer = train_quantizer(alone, quantizer, scenes, partial)
    note = {"decided_by": what_decides(cfg, data), "step": cfg.quantizer_steps}
    note["data"] = "synthetic scenes of all stages, mixed"
    save(quantizer, partial, note | provenance(cfg.seed))
    partial.replace(path)
