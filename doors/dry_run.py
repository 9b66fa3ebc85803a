"""``dry_run=true``: what a training would take, before anything is trained or written."""

import sys
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from doors.estimate import (
    Work,
    count,
    num_processes,
    plan_of,
    seconds_per_step,
    timed,
    total_tokens,
)
from doors.memory_plan import HEADROOM, MAX_BATCH, device_bytes, largest_batch, memory_plan
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
    parts = cfg.trainer.get("accumulate_grad_batches", 1)
    plan = plan_of(data, steps, predictor.cfg, world, parts, cfg.sequence.tokens)
    console.print(parameter_table(predictor, quantizer))
    largest = max(plan, key=lambda work: work.tokens(predictor.cfg) * work.batch)
    pairs = max(1, largest.batch // (world * parts))
    console.print(memory_table(cfg, largest, pairs))
    console.print(fitting_batch(cfg, largest))
    if is_fsdp(cfg):
        whole = memory_plan(cfg, largest, pairs)
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


def memory_table(cfg: DictConfig, work: Work, pairs: int) -> Table:
    """Bytes of one process at its fullest, without what the libraries take for themselves."""
    plan = memory_plan(cfg, work, pairs)
    table = Table(title=f"Memory of each process, {pairs} pairs of {work.size} px at a time, GB")
    table.add_column("what")
    table.add_column("GB", justify="right")
    rows = {
        "weights": plan.weights,
        "gradients": plan.gradients,
        "optimizer states": plan.optimizer,
        f"activations, recompute={cfg.schedule.recompute}": plan.activations,
        "of them logits at a time": plan.logits,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / 1e9:.3f}")
    table.add_section()
    table.add_row("all", f"{plan.peak / 1e9:.3f}", style="bold")
    return table


def fitting_batch(cfg: DictConfig, work: Work) -> str:
    """The largest batch of a process in one sentence."""
    there = device_bytes(cfg.trainer.accelerator)
    if there is None:
        return "Largest batch of a process: not known, there is no GPU here."
    budget = int(HEADROOM * there)
    most = largest_batch(lambda pairs: memory_plan(cfg, work, pairs).peak, budget)
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
