"""``task=pair`` and ``task=video``: no ground truth and no scores, but flow and tracks as files.

A question reads its files when it is built, is asked in blocks that outlive an interruption, and
writes what was answered.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from data.index import write_whole
from doors.kept import Kept
from doors.loading import load_model
from doors.progress import progress
from lras.next_frame import NextFrame
from tracing.asking import Asking
from tracing.benchmarks import line_up
from tracing.benchmarks.base import Tracer
from tracing.benchmarks.flow import at_sizes
from tracing.benchmarks.provenance import provenance
from tracing.estimate import engine_within, estimate
from tracing.tracers import TracerSetup

ANSWERS = "answers"  # folder, in the run's
# Of the protocol: what changes no answer.
FREE = ("ckpt", "engine.max_tokens", "zoom.max_crops", "options.hub_dir")
PLAIN = {"soft_wrap": True, "highlight": False, "markup": False}
ALL_AT_ONCE = 2**20  # queries of a block, for baselines: they find all in one go
INTERRUPTED = 130  # exit status, as shells give it to what was stopped by Ctrl-C
Protocol = Callable[[DictConfig, TracerSetup, NextFrame | None, dict], dict]


class Question(ABC):
    """What is asked of a tracer, and what becomes of its answers. All sizes in px as stored."""

    name: str
    frame_hw: tuple[int, int]
    input_px: int | None
    back: bool
    block: int

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What the answers depend on besides the tracer, JSON-ready."""

    @abstractmethod
    def count(self, grid_hw: tuple[int, int]) -> int:
        """How many answers are needed; ``grid_hw``: the tracer's rows and columns of patches."""

    @abstractmethod
    def answer(self, tracer: Tracer, grid_hw: tuple[int, int], how: Asking) -> Any:
        """Ask for everything."""

    @abstractmethod
    def about(self, result: Any) -> dict[str, Any]:
        """What results.json says of the answers."""

    @abstractmethod
    def write(self, out: Path, result: Any, console: Console) -> list[Path]:
        """Write the answers; returns the files."""


def is_question(task: DictConfig) -> bool:
    """Whether a task is one of these, not one that scores tracers."""
    return issubclass(get_class(task._target_), Question)


def answer(
    cfg: DictConfig, setup: TracerSetup, out: Path, console: Console, protocol: Protocol
) -> list[Path]:
    """Answer the question of ``cfg.task`` into ``out``; returns what was written.

    Answers that ``out`` holds already, from the same command, are not asked for again.
    """
    origin = provenance(cfg.seed)
    question: Question = instantiate(cfg.task, _convert_="object")  # before weights are loaded
    chosen, model = cfg.tracer.name, None
    if chosen in line_up.MODEL_TRACERS and cfg.ckpt is not None:
        cfg.controls = False  # nothing stands beside the tracer
        model = load_model(cfg, console)
    line_up.check_tracer(chosen, model)
    tracer, grid_hw = _tracer(cfg, setup, model, question)
    said = protocol(cfg, setup, model, question.inputs() | {"grid_hw": list(grid_hw)})
    block = ALL_AT_ONCE if model is None else question.block
    if engine := engine_within(tracer):
        frame_hw = tuple(side * model.patch_px for side in grid_hw)
        queries = min(block, question.count(grid_hw))
        pairs = setup.zoom.max_crops if setup.zoom.scales > 1 else 1
        guises = setup.augmentations
        said_first = estimate(engine, frame_hw, queries, cfg.device, pairs, guises)
        console.print(f"tracing: {said_first}", **PLAIN)
    memory = Kept(out / ANSWERS, said | {"block": block, "back": question.back}, FREE)
    again = f"the same command with hydra.run.dir={out} goes on"
    console.print(f"answers are kept in {out / ANSWERS}; should this stop, {again}", **PLAIN)
    try:
        with progress(question.count(grid_hw), console) as tell:
            how = Asking(seed=cfg.seed, back=question.back, block=block, memory=memory, tell=tell)
            result = question.answer(tracer, grid_hw, how)
    except KeyboardInterrupt:
        console.print(f"stopped; {again}", **PLAIN)
        raise SystemExit(INTERRUPTED) from None
    written = question.write(out, result, console)
    results = {
        "task": question.name,
        "tracer": tracer.name,
        **question.about(result),
        "floor": None if model is None else _floor(setup, model, grid_hw, question.frame_hw),
        "files": [path.name for path in written],
        "protocol": said,
        "provenance": origin,
    }
    write_whole(out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    return [*written, out / "results.json"]


def _tracer(
    cfg: DictConfig, setup: TracerSetup, model: NextFrame | None, question: Question
) -> tuple[Tracer, tuple[int, int]]:
    """The chosen tracer for frames as stored, and the rows and columns of its patches."""
    if model is None:
        rows, cols = (max(1, round(side / cfg.patch_px)) for side in question.frame_hw)
        options = line_up.options_of(OmegaConf.to_container(cfg.tracer, resolve=True))
        return line_up.chosen_baseline(cfg.tracer.name, cfg.patch_px, options), (rows, cols)
    side = question.input_px or model.image_size
    if side % model.patch_px:
        raise ValueError(
            f"task.input_px={side} is no multiple of the model's patches of {model.patch_px} px; "
            f"pass {-(-side // model.patch_px) * model.patch_px}."
        )
    made = setup.kl(model) if cfg.tracer.name == "kl" else setup.rgb(model)
    (fitted,) = at_sizes(made, (side, side))
    return setup.judged(fitted), (side // model.patch_px,) * 2


def _floor(
    setup: TracerSetup, model: NextFrame, grid_hw: tuple[int, int], frame_hw: tuple[int, int]
) -> dict[str, Any]:
    """How far an arg-max is off that names the right cell of its map, over all targets in it.

    Without ground truth the error itself is unknown; a centroid can be nearer.
    """
    on_cells = setup.cfg.placement == "query" and setup.cfg.read_out == "all"
    share = model.code_px / model.patch_px if on_cells else 1.0
    zooms = setup.zoom.scales - 1
    if zooms and setup.zoom.cut_from == "previous" and frame_hw[0] != frame_hw[1]:
        frame_hw, zooms = (min(frame_hw),) * 2, zooms - 1  # the first zoom is the largest square
    share *= setup.zoom.factor**zooms
    cell = torch.tensor([size / n * share for size, n in zip(frame_hw, grid_hw, strict=True)])
    off = (torch.linspace(-0.5, 0.5, 201, dtype=torch.float64)[:, None] * cell).abs()
    away = (off[:, None, 0].square() + off[None, :, 1].square()).sqrt()
    return {
        "cell_hw_px": cell.tolist(),
        "mean_px": away.mean().item(),
        "largest_px": away.max().item(),
    }


def digest(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
