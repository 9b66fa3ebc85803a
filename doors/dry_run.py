"""``dry_run=true``: what a training would take, before anything is trained or written."""

import sys
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from doors.batch_size import Group, bytes_for_one, planned_bytes, planned_parts
from doors.estimate import (
    Work,
    count,
    fullest,
    num_processes,
    seconds_per_step,
    timed,
    total_tokens,
    work_of,
)
from doors.memory_plan import (
    HEADROOM,
    MAX_BATCH,
    MemoryPlan,
    device_bytes,
    largest_batch,
    memory_plan,
)
from doors.sharded_plan import is_fsdp, sharded_table
from lras.config import PredictorConfig

TABLE_WIDTH = 120  # where no terminal says how wide it is


def dry_run(cfg: DictConfig, data: Any, steps: int) -> None:
    """Print the plan of ``cfg``: parameters, memory, tokens, time and the resolved config."""
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    with torch.device("meta"):
        predictor = instantiate(cfg.model.predictor, _convert_="object")
        quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    world, device = num_processes(cfg), "cuda" if cfg.trainer.accelerator == "gpu" else "cpu"
    plan = work_of(cfg, data, steps, predictor.cfg)
    console.print(parameter_table(predictor, quantizer))
    largest, pairs = fullest(cfg, plan, predictor.cfg)
    whole = memory_plan(cfg, largest, pairs)
    title = f"Memory of each process, {pairs} pairs of {largest.size} px at a time, GB"
    console.print(memory_table(cfg, whole, title))
    console.print(fitting_batch(cfg, largest))
    if is_fsdp(cfg):
        console.print(sharded_table(predictor, whole.optimizer, whole.activations))
    seconds = [seconds_per_step(cfg, work, predictor, world, device) for work in plan]
    title = f"Work on {world} process{'es' if world > 1 else ''} ({device})"
    console.print(work_table(plan, seconds, predictor.cfg, title))
    if not cfg.quantizer:
        console.print(f"Before that, {cfg.quantizer_steps} steps of the quantizer: not measured.")
    console.print(
        OmegaConf.to_yaml(cfg, resolve=True), markup=False, highlight=False, soft_wrap=True
    )


def parameter_table(predictor: nn.Module, quantizer: nn.Module) -> Table:
    table = Table(title="Parameters")
    table.add_column("part")
    table.add_column("number", justify="right")
    for name, part in predictor.named_children():
        table.add_row(name, f"{count(part):,}")
    table.add_section()
    table.add_row("predictor", f"{count(predictor):,}", style="bold")
    table.add_row("quantizer", f"{count(quantizer):,}")
    return table


def memory_table(cfg: DictConfig, plan: MemoryPlan, title: str) -> Table:
    """Bytes of one process at its fullest, without what the libraries take for themselves."""
    table = Table(title=title)
    table.add_column("what")
    table.add_column("GB", justify="right")
    parts = planned_parts(cfg, plan, Group.of(cfg))
    for name, size in parts.items():
        how = f", recompute={cfg.schedule.recompute}" if name == "activations" else ""
        table.add_row(name + how, f"{size / 1e9:.3f}")
    table.add_row("of them logits at a time", f"{plan.logits / 1e9:.3f}")
    table.add_section()
    table.add_row("all", f"{sum(parts.values()) / 1e9:.3f}", style="bold")
    return table


def memory_line(cfg: DictConfig, data: Any, steps: int) -> str | None:
    """What a process of this training is planned to take at its fullest; None without its GPU.

    Draws nothing from the global random state.
    """
    if device_bytes(cfg.trainer.accelerator) is None:
        return None
    group = Group.of(cfg)
    model = instantiate(cfg.model.predictor.cfg, _convert_="object")
    work, pairs = fullest(cfg, work_of(cfg, data, steps, model), model)
    with torch.random.fork_rng(devices=[]):
        taken = planned_bytes(cfg, work, pairs, group)
    there = bytes_for_one(cfg, group)
    return (
        f"memory: a process is planned to take {taken / 1e9:.3g} GB at most, of {there / 1e9:.3g} "
        f"GB there is for it (dry_run=true says of what)"
    )


def fitting_batch(cfg: DictConfig, work: Work) -> str:
    """The largest batch of a process in one sentence."""
    there = device_bytes(cfg.trainer.accelerator)
    if there is None:
        return "Largest batch of a process: not known, there is no GPU here."
    budget = int(HEADROOM * there)
    group = Group.of(cfg)
    most = largest_batch(lambda pairs: planned_bytes(cfg, work, pairs, group), budget)
    if cfg.trainer.accelerator == "gpu":
        return (
            f"Largest batch of a process that was tried and fits: {tried(cfg, work, most):,} pairs."
        )
    return (
        f"Largest batch of a process that is planned to fit into {HEADROOM:.0%} of "
        f"{there / 1e9:.1f} GB: {'at least ' * (most == MAX_BATCH)}{most:,} pairs."
    )


def tried(cfg: DictConfig, work: Work, pairs: int) -> int:
    """The most pairs, from ``pairs`` downwards in steps of a tenth, that a GPU takes in truth."""
    while pairs:
        try:
            timed(cfg, work, pairs, "cuda", steps=1)
            return pairs
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            pairs = int(0.9 * pairs)
    return 0


def work_table(
    plan: list[Work], seconds: list[float | str], cfg: PredictorConfig, title: str
) -> Table:
    """A row per stage and their sum; ``seconds`` per step, or why there are none."""
    table = Table(title=title)
    for name in ("stage", "steps", "pairs/step", "px", "tokens/pair", "tokens/step", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("s/step", justify="right")
    table.add_column("time", justify="right")
    for index, (work, spent) in enumerate(zip(plan, seconds, strict=True)):
        each = work.tokens(cfg)
        step = each * work.batch
        sizes = (index, work.steps, work.batch, work.size, each, step, step * work.steps)
        times = (
            (spent, "") if isinstance(spent, str) else (f"{spent:.3f}", spell(spent * work.steps))
        )
        table.add_row(*(f"{value:,}" for value in sizes), *times)
    table.add_section()
    timed = not any(isinstance(spent, str) for spent in seconds)
    whole = sum(w.steps * s for w, s in zip(plan, seconds, strict=True)) if timed else None
    steps = f"{sum(work.steps for work in plan):,}"
    last = "not measured" if whole is None else spell(whole)
    table.add_row(
        "all", steps, "", "", "", "", f"{total_tokens(plan, cfg):,}", "", last, style="bold"
    )
    return table


def spell(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds.

    >>> spell(75), spell(7500)
    ('1 min 15 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
