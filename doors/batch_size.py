"""``data.batch_size=auto``: the largest batch whose memory plan fits, found before the start.

Nothing is found by running out of memory: the plan of ``doors.memory_plan`` is asked, and on a GPU
one step is taken at the size it allows. Pairs of a process are ``unit`` times a power of two.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from doors.estimate import Work, num_processes, timed
from doors.memory_plan import MAX_BATCH, MemoryPlan, device_bytes, memory_plan
from doors.ranks import least_of_all, rank_or_any
from doors.resume import CONFIG
from doors.run_folder import has_checkpoint
from doors.sharded_plan import is_fsdp, share_of

log = logging.getLogger("train")

AUTO = "auto"
# What the first process chose, for those that Lightning's launcher starts from it.
CHOSEN = "LRAS_BATCH_SIZES"
CGROUP = Path("/sys/fs/cgroup")
PAIRS = "data.batch_size"  # of a process; batches of stages are those of all processes together


@dataclass(frozen=True)
class Group:
    """Processes that train together, and the batches that each accumulates for one step."""

    world: int
    parts: int
    nodes: int = 1

    @classmethod
    def of(cls, cfg: DictConfig) -> "Group":
        nodes = int(cfg.trainer.get("num_nodes", 1))
        return cls(num_processes(cfg), cfg.trainer.get("accumulate_grad_batches", 1), nodes)

    def size(self, key: str, pairs: int) -> int:
        """What the config says under ``key`` where a process takes ``pairs`` pairs at a time."""
        return pairs if key == PAIRS else pairs * self.world * self.parts


def set_batch_sizes(cfg: DictConfig, out: Path) -> None:
    """Put a number in place of every ``auto``: ``data.batch_size`` or ``data.stages.N.batch``.

    A run that goes on keeps the number that stands in its config, or its batches would be others.

    Raises:
        ValueError: not even the smallest batch fits, memory cannot be known, or ranks cannot agree.
    """
    wanted = _auto_keys(cfg)
    if not wanted:
        return
    before, group = _config_to_go_on_with(cfg, out), Group.of(cfg)
    inherited = rank_or_any() and "RANK" not in os.environ and os.environ.get(CHOSEN)
    if before is not None:
        sizes = {key: _kept(key, *before, group) for key in wanted}
    elif inherited:
        sizes = json.loads(inherited)
    else:
        sizes = {key: group.size(key, _agreed(cfg, key, group)) for key in wanted}
        os.environ[CHOSEN] = json.dumps(sizes)
    for key, size in sizes.items():
        OmegaConf.update(cfg, key, size)


def fitting_pairs(cfg: DictConfig, key: str, group: Group) -> int:
    """Pairs that one process takes at a time: by plan and, on a GPU, by one step."""
    work, most = _work(cfg, key, group)
    unit, free = _unit(cfg, group), bytes_for_one(cfg, group)
    budget = int(_share(cfg) * free)

    @cache
    def planned(units: int) -> int:
        return planned_bytes(cfg, work, units * unit, group)

    units = largest_power(planned, budget, max(1, min(most, MAX_BATCH) // unit))
    if not units:
        raise ValueError(
            f"{key}=auto: {unit} pair(s) of {work.size} px take {_gb(planned(1))}, but "
            f"batch_memory={cfg.batch_memory} of the {_gb(free)} there is for a process is "
            f"{_gb(budget)}; try schedule.recompute=block, sequence.tokens=4096 or a smaller model."
        )
    taken = _gb(planned(units)), _gb(budget)
    log.info("%s=auto: %d pairs a process, planned to take %s of %s", key, units * unit, *taken)
    if cfg.trainer.accelerator == "gpu" and not is_fsdp(cfg):  # one GPU holds no sharded model
        return tried(cfg, work, units * unit, unit)
    return units * unit


def largest_power(peak: Callable[[int], int], budget: int, most: int) -> int:
    """The largest power of two up to ``most`` whose ``peak`` is at most ``budget``; 0 if none.

    ``peak`` must not fall. It is asked as seldom as a nearly straight line allows.
    """
    if (low := peak(1)) > budget:
        return 0
    if most < 2:
        return 1
    slope = max(1, peak(2) - low)
    power = 1 << (min(most, 1 + (budget - low) // slope).bit_length() - 1)
    while peak(power) > budget:
        power //= 2
    while 2 * power <= most and peak(2 * power) <= budget:
        power *= 2
    return power


def planned_bytes(cfg: DictConfig, work: Work, pairs: int, group: Group) -> int:
    """The memory plan of one process, with what the strategy and averaged weights add to it."""
    return sum(planned_parts(cfg, memory_plan(cfg, work, pairs), group).values())


def planned_parts(cfg: DictConfig, plan: MemoryPlan, group: Group) -> dict[str, int]:
    """``planned_bytes`` by what takes them."""
    sizes = {"weights": plan.weights, "gradients": plan.gradients}
    sizes["optimizer states"], averaged = plan.optimizer, plan.weights
    if is_fsdp(cfg):
        with torch.device("meta"):
            predictor = instantiate(cfg.model.predictor, _convert_="object")
        share = share_of(predictor, plan.optimizer, plan.activations, group.world)
        sizes = {"weights": share.weights, "gradients": share.gradients}
        sizes |= {"optimizer states": share.states, "gathered at a time": share.gathered}
        averaged //= group.world
    elif group.world > 1:
        sizes["buckets in which DDP averages gradients"] = plan.gradients
    if cfg.callbacks.get("ema"):
        sizes["averaged weights"] = averaged
    return sizes | {"activations": plan.activations}


def tried(cfg: DictConfig, work: Work, pairs: int, unit: int) -> int:
    """The pairs that a GPU takes in truth: as planned, or else halved until one step runs."""
    planned, local = pairs, int(os.environ.get("LOCAL_RANK", 0))
    with torch.cuda.device(local):
        while not _runs(cfg, work, pairs):
            torch.cuda.empty_cache()
            if pairs <= unit:
                raise ValueError(
                    f"batch size auto: {unit} pairs of {work.size} px are planned to fit this GPU "
                    f"but do not; lower batch_memory, or set the batch size by hand."
                )
            pairs //= 2
    if pairs < planned:
        log.warning("%d pairs were planned to fit the GPU but %d do; taking these", planned, pairs)
    return pairs


def _runs(cfg: DictConfig, work: Work, pairs: int) -> bool:
    try:
        timed(cfg, work, pairs, "cuda", steps=0)
    except torch.OutOfMemoryError:
        return False
    return True


def bytes_for_one(cfg: DictConfig, group: Group) -> int:
    """Memory that each process may count as its own: that of the smallest GPU here, or an equal
    part of what is free of the machine's, within the limits of its container.
    """
    if cfg.trainer.accelerator == "gpu":
        if not torch.cuda.is_available():
            raise ValueError(
                f"{PAIRS}=auto needs the GPU it is chosen for, and there is none here; set a "
                f"number of pairs."
            )
        gpus = range(torch.cuda.device_count())
        return min(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus)
    free = device_bytes("cpu")
    limit, used = (CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free * group.nodes // group.world


def _auto_keys(cfg: DictConfig) -> list[str]:
    """Keys that say auto; ValueError where one holds another word."""
    stages = OmegaConf.select(cfg, "data.stages") or []  # None where no experiment is named
    found = {f"data.stages.{n}.batch": stage.get("batch") for n, stage in enumerate(stages)}
    found[PAIRS] = cfg.data.get("batch_size")
    for key, value in found.items():
        if isinstance(value, str) and value != AUTO:
            raise ValueError(f"{key}={value} is no number of pairs; set one, or auto.")
    return [key for key, value in found.items() if value == AUTO]


def _share(cfg: DictConfig) -> float:
    if not isinstance(cfg.batch_memory, int | float) or not 0 < cfg.batch_memory <= 1:
        raise ValueError(
            f"batch_memory={cfg.batch_memory} is no share of the memory; use one above 0 and up to "
            f"1, such as 0.9."
        )
    return cfg.batch_memory


def _agreed(cfg: DictConfig, key: str, group: Group) -> int:
    """What fits every process."""
    pairs = fitting_pairs(cfg, key, group)
    by_torchrun = "RANK" in os.environ
    if not by_torchrun and (int(os.environ.get("SLURM_NTASKS", 1)) > 1 or group.nodes > 1):
        raise ValueError(
            f"{key}=auto: processes that SLURM or other nodes start cannot agree on a size before "
            f"they train; set {key}={group.size(key, pairs)}, which fits this one, or use torchrun."
        )
    return least_of_all(pairs, key)


def _unit(cfg: DictConfig, group: Group) -> int:
    """Pairs of a process must be a multiple of this for ``data.streams`` to divide every batch."""
    each, streams = group.world * group.parts, cfg.data.get("streams") or 1
    return streams // gcd(streams, each)


def _work(cfg: DictConfig, key: str, group: Group) -> tuple[Work, int]:
    """What a process computes with, and the most pairs the data have for it at a time."""
    limit = {"steps": 1, "batch": 1, "limit": cfg.sequence.tokens}
    if key != PAIRS:
        stage = OmegaConf.select(cfg, key.removesuffix(".batch")).copy()
        stage.batch = 1
        made = instantiate(stage, _convert_="object")
        work = {"size": made.scene.size, "share": made.frame1_share, "stage": made}
        return Work(**limit, **work), MAX_BATCH
    own = cfg.data.copy()
    own.batch_size = 1
    data: Any = instantiate(own, _convert_="object")
    folders = [folder.index for folder in data.training_folders]
    size, samples = data.pairs.crop_px or folders[0].size, sum(f.num_samples for f in folders)
    most = samples // (group.world * group.parts)
    return Work(**limit, size=size, share=1.0, stage=None), most


def _config_to_go_on_with(cfg: DictConfig, out: Path) -> tuple[Path, DictConfig] | None:
    """The run that this one resumes or branches off, and its config; None for a fresh run."""
    run = out if has_checkpoint(out) else None
    if run is None and cfg.schedule.decay_from:
        source = Path(cfg.schedule.decay_from)
        run = source if (source / CONFIG).is_file() else source.resolve().parents[1]
    if run is None or not (run / CONFIG).is_file():
        return None
    return run, OmegaConf.load(run / CONFIG)


def _kept(key: str, run: Path, then: DictConfig, group: Group) -> int:
    """The size that ``run`` was trained with; of pairs per process, so that a step has as many."""
    size = OmegaConf.select(then, key)
    if not isinstance(size, int):
        raise ValueError(
            f"{key}=auto goes on with the size that {run} was trained with, but its config has "
            f"{key}={size}; set a number."
        )
    if key == PAIRS:
        before = Group.of(then)
        step, each = size * before.world * before.parts, group.world * group.parts
        if step % each:
            raise ValueError(
                f"{run} takes {step} pairs a step, which do not divide among {group.world} "
                f"processes that accumulate {group.parts}; go on with another number of them."
            )
        size = step // each
    log.info("%s=auto: %d, as %s was trained with", key, size, run)
    return size


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
