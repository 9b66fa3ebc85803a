"""Score tracers on queries with ground truth: ``python eval.py ckpt=RUN task=synthetic``.

Thin on purpose: it loads the model, lines up tracers, baselines and controls on one task, and
writes results.json, a table, the points, pictures and (``report=true``) one page to look at.
"""

import sys
from dataclasses import replace
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from doors import asking, one_sentence
from doors.loading import load_model, untrained_like
from lras.next_frame import NextFrame
from tracing.benchmarks import evaluation
from tracing.benchmarks.provenance import provenance
from tracing.ensemble import ZoomConfig
from tracing.estimate import engine_within, estimate
from tracing.tracers import TracerSetup


def setup_of(cfg: DictConfig) -> TracerSetup:
    """How the config wants KL and RGB tracers."""
    parts = {name: instantiate(cfg.tracer[name]) for name in ("cfg", "zoom", "engine")}
    judged = {name: cfg.tracer[name] for name in ("occlusion", "return_px")}
    return TracerSetup(**parts, **judged, max_batch=cfg.max_batch)


def protocol(cfg: DictConfig, setup: TracerSetup, model: NextFrame | None, about: dict) -> dict:
    """How the scores came about, JSON-ready."""
    how = {"tracer": cfg.tracer.name, "seed": cfg.seed, "ckpt": cfg.ckpt}
    if model is not None:
        how["fingerprint"] = evaluation.fingerprint(model.state_dict())
        how["quantizer_fingerprint"] = model.quantizer.fingerprint()
        how["rgb"] = model.quantizer.expected_rgb_means
        how["quantizer"], how["hidden_patches"] = cfg.quantizer, cfg.hidden_patches
        how["vocabulary"] = model.vocabulary
        how["dtype"] = str(model.predictor.token_table.weight.dtype).removeprefix("torch.")
    if "points_per_pair" in cfg.task:
        how["points_per_pair"] = cfg.task.points_per_pair
        how["attention"] = cfg.attention
    said = setup.about()
    if model is not None and (cfg.tracer.name == "rgb" or not model.forks):
        # as TwoBranchTracer traces, whatever was asked for
        said["tracer_config"] |= {"order0": "random", "revealed": "after", "search": "full"}
    return how | said | about


def run(cfg: DictConfig, out: Path, console: Console) -> list[Path]:
    """Evaluate what the config names; returns what was written."""
    origin = provenance(cfg.seed)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    setup = setup_of(cfg)
    if asking.is_question(cfg.task):
        return asking.answer(cfg, setup, out, console, protocol)
    model = None if cfg.ckpt is None else load_model(cfg, console)
    if model is not None and cfg.task.get("input_px", 0) is None:
        cfg.task.input_px = model.image_size
    patch_px = cfg.patch_px if model is None else model.patch_px
    evaluation.check_tracer(cfg.tracer.name, model)
    task = instantiate(cfg.task, _convert_="object")
    line_up, kl = evaluation.line_up(cfg.tracer.name, model, setup, patch_px, task, cfg.compare)
    if engine := engine_within(line_up[0]):
        side, queries = cfg.task.get("input_px") or model.image_size, task.parts[0].points.shape[1]
        pairs = len(task.parts[0].points)
        if setup.zoom.scales > 1:  # crops ask one query each
            pairs = max(pairs, setup.zoom.max_crops)
        said = estimate(engine, (side, side), queries, cfg.device, pairs)
        console.print(f"tracing: {said}", soft_wrap=True, highlight=False, markup=False)
    controls = []
    if model is not None and cfg.controls:
        untrained = untrained_like(model, cfg.seed, cfg.offload)
        controls = evaluation.control_tracers(model, untrained, setup, task)
    on_cells = setup.cfg.placement == "query" and setup.cfg.read_out == "all"
    floor = task.floor(patch_px, setup.cfg, model.code_px if model and on_cells else patch_px)

    parts = track(task.parts, "tracing", console=console, transient=True)
    score = evaluation.scores_of(task)
    every = score([*line_up, *controls], parts, cfg.seed, patch_px=patch_px, paired_with=kl)
    rows, failing = every[: len(line_up)], every[len(line_up) :]

    pictures = evaluation.arrow_pictures(rows[0], task.parts, 2) | task.pictures(rows)
    if model is not None:
        tracer = replace(setup, zoom=ZoomConfig()).kl(model)
        pictures = evaluation.kl_pictures(tracer, task.for_model(), cfg.seed, 4) | pictures
    results = evaluation.results_of(task, rows, failing, floor)
    results["protocol"] = protocol(cfg, setup, model, task.about())
    results |= evaluation.read_curve(cfg.ckpt) | {"provenance": origin}
    evaluation.show(results, rows, failing, console)
    return evaluation.write_evaluation(out, results, rows, failing, pictures, cfg.report)


@hydra.main(version_base="1.3", config_path="configs", config_name="eval")
def main(cfg: DictConfig) -> None:
    out = Path(HydraConfig.get().runtime.output_dir)
    console = Console(width=None if sys.stdout.isatty() else evaluation.TABLE_WIDTH)

    def tidy() -> None:
        if not any(out.iterdir()):
            out.rmdir()

    with one_sentence(tidy):
        for path in run(cfg, out, console):
            console.print(f"written: {path}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
