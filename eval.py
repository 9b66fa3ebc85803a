"""Score tracers on queries with ground truth: ``python eval.py ckpt=RUN task=synthetic``.

Without arguments it takes a first look at the reference model that comes with the repository.
Thin on purpose: it loads the model, lines up tracers, baselines and controls on one task, and
writes results.json, a table, the points, pictures and (``report=true``) one page to look at.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from doors import asking, one_sentence
from doors.grading import Graded, Grader
from doors.loading import load_model, untrained_like
from doors.loggers.evaluation_run import log_evaluation
from doors.reference import FIRST_LOOK, chosen_ckpt
from doors.shards import own_device, shard_by_launcher
from lras.next_frame import NextFrame
from tracing.benchmarks import evaluation, line_up
from tracing.benchmarks.base import Tracer
from tracing.benchmarks.pictures import Pictures, arrow_pictures, case_pictures, kl_pictures
from tracing.benchmarks.provenance import provenance
from tracing.benchmarks.stamp import data_files, stamp_of
from tracing.ensemble import ZoomConfig
from tracing.estimate import engine_within, estimate
from tracing.tracers import TracerSetup

HOW_ONLY = ("device",)  # of the task: where, not what


def setup_of(cfg: DictConfig) -> TracerSetup:
    """How the config wants KL and RGB tracers."""
    parts = {name: instantiate(cfg.tracer[name]) for name in ("cfg", "zoom", "engine")}
    plain = {name: cfg.tracer[name] for name in ("augmentations", "occlusion", "return_px")}
    return TracerSetup(**parts, **plain, max_batch=cfg.max_batch)


def protocol(cfg: DictConfig, setup: TracerSetup, model: NextFrame | None, about: dict) -> dict:
    """How the scores came about, JSON-ready."""
    how = {"tracer": cfg.tracer.name, "seed": cfg.seed, "ckpt": cfg.ckpt}
    if options := line_up.options_of(cfg.tracer):
        how["options"] = OmegaConf.to_container(OmegaConf.create(options), resolve=True)
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


def asked_of(cfg: DictConfig, said: dict, patch_px: int) -> dict:
    """All that the answers of all tracers depend on, JSON-ready."""
    task = OmegaConf.to_container(cfg.task, resolve=True)
    task = {key: value for key, value in task.items() if key not in HOW_ONLY}
    versions = {"opencv": cv2.__version__, "torch": torch.__version__}  # DIS depends on OpenCV's
    return said | {"task": task, "patch_px": patch_px, "attention": cfg.attention} | versions


def say_estimate(
    cfg: DictConfig, tracer: Tracer, task: evaluation.Task, model: NextFrame, console: Console
) -> None:
    """Print what a forward of the engine will hold, where there is an engine."""
    if not (engine := engine_within(tracer)):
        return
    side, first = cfg.task.get("input_px") or model.image_size, task.parts[0]
    pairs = len(first.points)
    if cfg.tracer.zoom.scales > 1:  # crops ask one query each
        pairs = max(pairs, cfg.tracer.zoom.max_crops)
    queries, guises = first.points.shape[1], cfg.tracer.augmentations
    said = estimate(engine, (side, side), queries, cfg.device, pairs, guises)
    console.print(f"tracing: {said}", soft_wrap=True, highlight=False, markup=False)


def pictures_of(
    cfg: DictConfig, graded: Graded, rows: list, setup: TracerSetup, model: NextFrame | None
) -> Pictures:
    """What there is to look at: KL maps, motion, the best and worst cases."""
    pictures = arrow_pictures(rows[0], graded.task.parts, 2)
    pictures |= case_pictures(rows[0], graded.task.parts, graded.course.places)
    pictures |= graded.task.pictures(rows)
    if model is None:
        return pictures
    tracer = replace(setup, zoom=ZoomConfig()).kl(model)
    return kl_pictures(tracer, graded.task.for_model(), cfg.seed, 4) | pictures


def run(cfg: DictConfig, out: Path, console: Console) -> list[Path]:
    """Evaluate what the config names; returns what was written."""
    started, origin = time.perf_counter(), provenance(cfg.seed)
    cfg.device = own_device(cfg.device)
    cfg.ckpt = chosen_ckpt(cfg.ckpt, cfg.tracer.name)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    setup = setup_of(cfg)
    if asking.is_question(cfg.task):
        return asking.answer(cfg, setup, out, console, protocol)
    model = None if cfg.ckpt is None else load_model(cfg, console)
    if model is not None and cfg.task.get("input_px", 0) is None:
        cfg.task.input_px = model.image_size
    patch_px = cfg.patch_px if model is None else model.patch_px
    line_up.check_tracer(cfg.tracer.name, model)
    task = instantiate(cfg.task, _convert_="object")
    options = line_up.options_of(cfg.tracer)
    tracers, kl = line_up.line_up(
        cfg.tracer.name, model, setup, patch_px, task, cfg.compare, options
    )
    if model is not None:
        say_estimate(cfg, tracers[0], task, model, console)
    controls = []
    if model is not None and cfg.controls:
        untrained = untrained_like(model, cfg.seed, cfg.offload)
        controls = line_up.control_tracers(model, untrained, setup, task)

    about = task.about()
    said = protocol(cfg, setup, model, about)
    asked = asked_of(cfg, said, patch_px)
    grader = Grader(cfg, task, [*tracers, *controls], asked, out, console)
    if (graded := grader.grade(patch_px, kl)) is None:
        return []
    rows, failing = graded.rows[: len(tracers)], graded.rows[len(tracers) :]

    on_cells = setup.cfg.placement == "query" and setup.cfg.read_out == "all"
    map_px = model.code_px if model and on_cells else patch_px
    floor = graded.task.floor(patch_px, setup.cfg, map_px)
    own = about if graded.task is task else None
    results = evaluation.results_of(graded.task, rows, failing, floor, own)
    results |= {"protocol": said, "provenance": origin, "coverage": graded.coverage}
    results |= evaluation.read_curve(cfg.ckpt)
    results["stamp"] = stamp_of(
        results,
        tracer=rows[0].name,
        data=data_files(about),
        wall_seconds=time.perf_counter() - started,
        points_per_second=graded.points_per_second,
        per_point={},
    )
    pictures = pictures_of(cfg, graded, rows, setup, model)
    evaluation.show(results, rows, failing, console)
    written = evaluation.write_evaluation(out, results, rows, failing, pictures, cfg.report)
    if cfg.wandb_project:
        log_evaluation(out, cfg.wandb_project, cfg.wandb_offline)
    return written


@hydra.main(version_base="1.3", config_path="configs", config_name="eval")
def main(cfg: DictConfig) -> None:
    out = Path(HydraConfig.get().runtime.output_dir)
    console = Console(width=None if sys.stdout.isatty() else evaluation.TABLE_WIDTH)
    if (shard := shard_by_launcher()) and shard.index:
        console.quiet = True  # one of the processes speaks

    def tidy() -> None:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()

    with one_sentence(tidy):
        named = any(o.startswith("hydra.run.dir=") for o in HydraConfig.get().overrides.hydra)
        if cfg.shard and not named:
            raise ValueError(
                f"shard={cfg.shard} is a share of one evaluation, which needs one folder; name the "
                "same one for all of them, and for the command that grades: hydra.run.dir=DIR."
            )
        for path in run(cfg, out, console):
            console.print(f"written: {path}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.argv += FIRST_LOOK
        print(f"a first look: python eval.py {' '.join(FIRST_LOOK)}", flush=True)
    main()
