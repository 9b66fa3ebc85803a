"""The same evaluation at the end of every run of a study, and the card that says what it gave."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from data.curriculum import HeldOutScenes, SyntheticDataModule
from data.synthetic import SceneConfig
from doors.checkpoints import STEP
from doors.run_folder import LAST
from doors.run_record import RECORD
from lras.checkpoint import load
from lras.config import PredictorConfig
from lras.held_out import held_out_orders
from lras.next_frame import NextFrame
from lras.predictor_module import PredictorModule
from studies.budget import budget_of, spent_at
from studies.card import CARD, Card, CurveFigures, CurvePoint, Parameters, SetFigures
from tracing.benchmarks.base import Tracer
from tracing.benchmarks.evaluation import on_device
from tracing.config import TracerConfig
from tracing.metrics import functional
from tracing.metrics.bootstrap import bootstrap_mean
from tracing.probe.callback import made
from tracing.probe.scores import Answer, baseline_scores, in_stored_pixels, scores
from tracing.probe.sets import ProbeSet
from tracing.tracers import kl_tracer

log = logging.getLogger("train")


@dataclass(frozen=True, kw_only=True)
class Final:
    """What is asked of a trained model, the same of all runs of a study."""

    sets: dict[str, Any]  # by name, a ProbeSet or what makes one
    scene: SceneConfig  # of the loss
    tracer: TracerConfig
    loss_batches: int
    loss_batch: int  # pairs
    seed: int  # of reveal masks, loss scenes and bootstrap
    max_batch: int  # rows of a forward where a model cannot fork


def write_card(cfg: DictConfig, out: Path, final: Final) -> Card:
    """Evaluate the finished run in ``out`` and write its ``study.json``."""
    device = "cuda" if cfg.trainer.accelerator == "gpu" and torch.cuda.is_available() else "cpu"
    model = load(out / "export", device)
    data = instantiate(cfg.data, _convert_="object")
    sizes, limit = model.predictor.cfg, cfg.sequence.tokens
    steps = last_step(out)
    spent = spent_at(steps, data, sizes, limit)
    card = Card(
        size=cfg.scaling.size,
        seed=cfg.seed,
        parameters=parameters_of(model),
        budget=budget_of(cfg.scaling.tokens, cfg.scaling.flops),
        tokens=spent.tokens,
        flops=float(spent.flops),
        steps=steps,
        seconds=training_seconds(out),
        loss_nats=held_out_nats(model, final, device),
        sets=evaluated(model, final, device),
        curve=curve_of(out, data, sizes, limit),
        **origin_of(out, cfg.threads),
    )
    card.write(out / CARD)
    return card


def origin_of(out: Path, threads: int | None) -> dict[str, str]:
    """Commits, machines and commands of all goes at the run, each once, in the order of the goes.

    ``threads`` of the config; None stands for all cores.
    """
    goes = json.loads((out / RECORD).read_text())
    machines = [go["machine"] for go in goes]
    told = {
        "git_sha": [go["git_sha"] for go in goes],
        "machine": [f"{m.get('gpu', m['cpu'])}, {threads or m['cores']} threads" for m in machines],
        "command": [go["command"] for go in goes],
    }
    return {field: "; ".join(dict.fromkeys(values)) for field, values in told.items()}


def parameters_of(model: NextFrame) -> Parameters:
    """Weights of the predictor by group."""
    predictor = model.predictor

    def count(part: torch.nn.Module | None) -> int:
        return 0 if part is None else sum(each.numel() for each in part.parameters())

    total, blocks, head = count(predictor), count(predictor.blocks), count(predictor.head)
    return Parameters(blocks=blocks, embeddings=total - blocks - head, head=head, total=total)


def last_step(out: Path) -> int:
    """Optimizer steps of the run's last checkpoint, by its name; 0 where there is none."""
    match = STEP.fullmatch((out / LAST).resolve().name)
    return int(match[1]) if match else 0


def training_seconds(out: Path) -> float:
    """Of all goes at the run together, as its probe counted them: probes left out."""
    state = torch.load(out / LAST, map_location="cpu", weights_only=True, mmap=True)
    states = [each for each in state["callbacks"].values() if "budget" in each]
    return float(states[0]["budget"]["outside"]) if states else float("nan")


@torch.no_grad()
def held_out_nats(model: NextFrame, final: Final, device: str) -> float:
    """Nats per code of frame 1 on scenes that all runs are asked, each in an order of its own."""
    module = PredictorModule(model.predictor, model.quantizer).to(device).eval()
    total, count = 0.0, 0  # by hand: a metric of torchmetrics would ask ranks that have ended
    for batch in HeldOutScenes(final.scene, final.loss_batches, final.loss_batch, final.seed):
        grid, codes0, codes1 = module.codes(batch["frames"].to(device))
        orders = held_out_orders(batch["key"], grid.num_patches, final.seed)
        order0, order1 = (order.to(codes0) for order in orders)
        nats = model.predictor(codes0, codes1, order0, order1, grid)
        total, count = total + nats.double().sum().item(), count + nats.numel()
    return total / count


@torch.no_grad()
def evaluated(model: NextFrame, final: Final, device: str) -> dict[str, SetFigures]:
    """The figures of every set, by name."""
    tracer = kl_tracer(model, final.tracer, max_batch=final.max_batch)
    found = {}
    for name, source in final.sets.items():
        if source is None:
            continue
        found[name] = figures_of(made(name, source), tracer, final, device)
        log.info("%s: EPE %.3f px of %.3f", name, found[name].epe_px, found[name].zero_epe_px)
    return found


def figures_of(probe: ProbeSet, tracer: Tracer, final: Final, device: str) -> SetFigures:
    """One set, traced and scored as the probe does, with an interval over frame pairs."""
    answers = []
    for part, shown in enumerate(probe.shown):
        pair = on_device(shown, device)
        traces = tracer(pair.frame0, pair.frame1, pair.points, seed=final.seed + part)
        answers.append(
            Answer(
                part=part,
                xy=traces.xy[0].float().cpu(),
                peak_kl=traces.peak_kl[0].cpu(),
                flipped_codes=traces.flipped_codes[0].cpu(),
            )
        )
    patch_px = tracer.model.patch_px
    on_cells = final.tracer.placement == "query" and final.tracer.read_out == "all"
    map_px = tracer.model.code_px if on_cells else patch_px
    told = scores(probe, answers, patch_px)
    told |= baseline_scores(probe, patch_px, final.tracer.placement, map_px)
    xy = in_stored_pixels(probe, [answer.xy for answer in answers])
    errors = functional.distances(xy, torch.cat([part.target[0] for part in probe.stored]))
    visible = torch.cat([part.visible[0] for part in probe.stored])
    counts = torch.tensor([part.points.shape[1] for part in probe.stored])
    pairs = torch.arange(len(counts)).repeat_interleave(counts)
    interval = bootstrap_mean(errors[visible], final.seed, pairs[visible])
    return SetFigures(
        points=int(visible.sum()),
        epe_px=told["epe"],
        epe_ci95_px=(interval.low, interval.high),
        ad_px=told["ad"],
        delta_avg=told["delta_avg"],
        hit=told["hit"],
        zero_epe_px=told["zero_epe"],
        floor_px=told["floor"],
    )


def curve_of(
    out: Path, data: SyntheticDataModule, model: PredictorConfig, limit: int | None
) -> tuple[CurvePoint, ...]:
    """What the run's own probe saw, by steps, tokens and FLOPs."""
    path = out / "probe.json"
    history = json.loads(path.read_text()) if path.is_file() else []
    points = []
    for point in history:
        spent = spent_at(point["step"], data, model, limit)
        points.append(
            CurvePoint(
                step=spent.steps,
                tokens=spent.tokens,
                flops=float(spent.flops),
                sets=curve_sets(point),
            )
        )
    return tuple(points)


def curve_sets(point: Mapping[str, float | int]) -> dict[str, CurveFigures]:
    """The sets of one probe that could be traced."""
    names = [key.split("/")[1] for key in point if key.endswith("/epe")]
    return {
        name: CurveFigures(
            epe_px=point[f"flow/{name}/epe"],
            zero_epe_px=point[f"flow/{name}/zero_epe"],
            hit=point[f"flow/{name}/hit"],
        )
        for name in names
    }
