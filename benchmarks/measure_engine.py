"""What the engine's options do to the error of a trained model; keeps figures as JSON.

    python benchmarks/measure_engine.py orders --run DIR     order of frame 0, place of the revealed
    python benchmarks/measure_engine.py zoom --run DIR       one, two and three scales, and DIS
    python benchmarks/measure_engine.py search --run DIR     coarse-to-fine against full read-out
    python benchmarks/measure_engine.py silent --run DIR     tracers that flip no code, and retries

DIR is a run of ``experiment=lras_nano``, lras_nano_long or lras_nano_patch8, or its export. Points
are of held-out hard scenes and move by at least 1 px; each seed of the masks traces the same
points, and a point's error is its mean over the seeds.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
from einops import rearrange
from hydra.utils import instantiate
from jaxtyping import Float, Float64
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.measure_main import SHARED, WORK, note_of, origin
from benchmarks.result_file import ROOT, write_result
from data.types import PointPairs
from lras.checkpoint import load
from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from tracing.augmentation import GUISES
from tracing.baselines import DIS, ZeroMotion
from tracing.benchmarks.base import Tracer, perfect_answer, readout_floor
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import Attempt, TracerConfig, Traces
from tracing.ensemble import Zoom, ZoomConfig
from tracing.metrics.bootstrap import bootstrap_mean, bootstrap_paired
from tracing.metrics.functional import distances
from tracing.readout import answer
from tracing.tracers import kl_tracer

SEED, MASK_SEEDS = 0, 3
Seeds = Sequence[int]  # of the masks
POINTS_PER_PAIR, MIN_MOTION_PX = 4, 1.0
ORDERS: dict[str, dict[str, str]] = {
    "after": {"order0": "changed_last", "revealed": "after"},
    "random": {"order0": "random", "revealed": "after"},
    "before": {"order0": "changed_last", "revealed": "before"},
    "clean": {"order0": "changed_last", "revealed": "clean"},
}
SCALES = (1, 2, 3)


def hard_points(num_pairs: int, seed: int = SEED) -> PointPairs:
    scene = instantiate(OmegaConf.load(ROOT / "configs" / "scene" / "hard.yaml"))
    return synthetic_pairs(scene, num_pairs, POINTS_PER_PAIR, MIN_MOTION_PX, seed)


def answers(tracer: Tracer, points: PointPairs, seed: int) -> Traces:
    return tracer(points.frame0, points.frame1, points.points, seed=seed)


def mean_errors(
    tracer: Tracer, points: PointPairs, seeds: Seeds
) -> Float64[Tensor, "pairs points"]:
    """Each point's error in px, averaged over the seeds of the masks."""
    every = [distances(answers(tracer, points, seed).xy, points.target) for seed in seeds]
    return torch.stack(every).double().mean(0)


def same_pair(errors: Float64[Tensor, "pairs points"]) -> Tensor:
    """Which frame pair each point is of: those of one pair fail together."""
    return torch.arange(len(errors))[:, None].expand_as(errors).flatten()


def scored(errors: Float64[Tensor, "pairs points"]) -> dict:
    found = bootstrap_mean(errors.flatten(), SEED, same_pair(errors))
    return {"epe_px": found.mean, "epe_ci95_px": [found.low, found.high]}


def paired(one: Float64[Tensor, "pairs points"], other: Float64[Tensor, "pairs points"]) -> dict:
    """EPE of the first less that of the second, in px."""
    found = bootstrap_paired(one.flatten(), other.flatten(), SEED, same_pair(one))
    return {"difference_px": found.mean, "ci95_px": [found.low, found.high]}


def orders(model: NextFrame, points: PointPairs, seeds: Seeds) -> dict:
    """EPE of every order, and each one's difference to ``after``."""
    errors, seconds = {}, {}
    for name, how in ORDERS.items():
        start = time.perf_counter()
        errors[name] = mean_errors(kl_tracer(model, TracerConfig(**how)), points, seeds)
        seconds[name] = time.perf_counter() - start
    table = {
        name: scored(own)
        | {"seconds": round(seconds[name], 1)}
        | {f"minus_{other}": paired(own, errors[other]) for other in ORDERS if other != name}
        for name, own in errors.items()
    }
    return {"orders": table}


def argmax_xy(
    traces: Traces, points: PointPairs, grid: PatchGrid
) -> Float[Tensor, "pairs points 2"]:
    """Where the highest patch of the map says that each point went."""
    may_win = rearrange(~traces.never_hidden, "b (r c) -> b 1 r c", r=grid.rows)
    return answer(traces.maps, may_win, points.points, grid, TracerConfig(peak="argmax"))[0]


class Remembered:
    """A tracer that is asked but once about each question.

    The first scales of three are those of two: a study of both need not pay for them twice.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer, self.name = tracer, tracer.name
        self.known: dict[tuple, Traces] = {}

    def __call__(
        self, frame0: Tensor, frame1: Tensor, points: Tensor, seed: int, **how: Tensor | None
    ) -> Traces:
        tensors = (each for each in (frame0, frame1, points, *how.values()) if each is not None)
        key = (seed, *(each.numpy().tobytes() for each in tensors))
        if key not in self.known:
            self.known[key] = self.tracer(frame0, frame1, points, seed, **how)
        return self.known[key]


def zoom(
    model: NextFrame,
    points: PointPairs,
    seeds: Seeds,
    num_masks: int | None = None,
    crop_masks: int | None = None,
    augmentations: int = 1,
    keep_hidden_px: int | None = None,
) -> dict:
    """EPE by number of scales, baselines on the same points, and where the arg-max is right.

    ``num_masks`` are those of the first scale, in every row, ``crop_masks`` those of the others;
    every scale of every row asks about as many guises of the frames. What is None is as usual.
    """
    grid = PatchGrid(*points.frame0.shape[-2:], model.patch_px, model.code_px)
    usual = TracerConfig().num_masks
    cfg = TracerConfig(num_masks=num_masks or usual)
    crops = ZoomConfig(scales=SCALES[-1], num_masks=crop_masks or usual)
    if keep_hidden_px is not None:
        crops = replace(crops, keep_hidden_px=float(keep_hidden_px))
    deepest = kl_tracer(model, cfg, zoom=crops, augmentations=augmentations)
    on_whole, on_crops = Remembered(deepest.on_whole), Remembered(deepest.on_crops)
    tracers: dict[str, Tracer] = {
        f"{scales}": Zoom(on_whole, on_crops, model.patch_px, replace(crops, scales=scales))
        for scales in SCALES
    }
    tracers |= {tracer.name: tracer for tracer in (DIS(), DIS(enlarge=4), ZeroMotion())}
    found = {
        name: torch.stack([answers(tracer, points, seed).xy for seed in seeds])
        for name, tracer in tracers.items()
    }
    first = [answers(tracers["1"], points, seed) for seed in seeds]
    found["1, arg-max"] = torch.stack([argmax_xy(traces, points, grid) for traces in first])
    perfect = perfect_answer(points, grid.patch_px, cfg.placement, grid.patch_px)
    every = (len(seeds), *perfect.shape)
    right = distances(found["1, arg-max"], perfect.expand(every)) < 1e-3
    table = {}
    for name, xy in found.items():
        errors = distances(xy, points.target.expand(every)).double()
        right_epe = {"right_epe_px": errors[right].mean().item()}
        table[name] = scored(errors.mean(0)) | right_epe
    floors = distances(perfect, points.target).expand(right.shape)
    return {
        "scales": table,
        "zoom": vars(crops),
        "num_masks": cfg.num_masks,
        "augmentations": augmentations,
        "floor_px": readout_floor(points, grid.patch_px),
        "right_share": right.double().mean().item(),
        "right_points": int(right.sum()),
        "right_floor_px": floors[right].double().mean().item(),
    }


def search(model: NextFrame, points: PointPairs, seeds: Seeds) -> dict:
    """Queries whose highest patch is the same, by place of the revealed and number of masks."""
    table = {}
    for revealed in ("after", "before", "clean"):
        for num_masks in (1, TracerConfig().num_masks):
            cfg = TracerConfig(revealed=revealed, num_masks=num_masks)
            fine = replace(cfg, search="coarse_to_fine")
            same: list[Tensor] = []
            xy_same: list[Tensor] = []
            for seed in seeds:
                one, other = (answers(kl_tracer(model, c), points, seed) for c in (cfg, fine))
                peaks = [traces.maps.flatten(2).argmax(-1) for traces in (one, other)]
                same.append(peaks[0] == peaks[1])
                xy_same.append(distances(one.xy, other.xy) < 1e-3)
            table[f"{revealed}, {num_masks} masks"] = {
                "same_argmax_share": torch.stack(same).double().mean().item(),
                "same_answer_share": torch.stack(xy_same).double().mean().item(),
                "queries": torch.stack(same).numel(),
            }
    return {"search": table}


def silent(model: NextFrame, points: PointPairs, seeds: Seeds) -> dict:
    """Which attempt flipped a code at last, as shares; and how many codes."""
    table = {}
    for placement in ("patch", "query"):
        for retry in (False, True):
            cfg = TracerConfig(placement=placement, retry=retry, num_masks=1)
            traces = answers(kl_tracer(model, cfg), points, seeds[0])
            counts = torch.bincount(traces.attempt.flatten(), minlength=len(get_args(Attempt)))
            shares = (counts.double() / counts.sum()).tolist()
            table[f"{placement}, {'retry' if retry else 'once'}"] = {
                **dict(zip(get_args(Attempt), shares, strict=True)),
                "mean_codes": traces.flipped_codes.double().mean().item(),
            }
    return {"attempts": table}


STUDIES: dict[str, Callable[..., dict]] = {
    "orders": orders,
    "zoom": zoom,
    "search": search,
    "silent": silent,
}
FOR_ZOOM = {  # options of the zoom study alone: its argument, and what it counts
    "--masks": ("num_masks", "masks of the first scale"),
    "--crop-masks": ("crop_masks", "masks of the other scales"),
    "--augmentations": ("augmentations", "guises of the frames"),
    "--keep-hidden": ("keep_hidden_px", "px round the estimate in crops, 0 for none,"),
}
NUM_PAIRS = {"orders": 32, "zoom": 36, "search": 32, "silent": 512}


def at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"got {text}; it takes a whole number from {least}")
    return int(text)


positive = partial(at_least, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(STUDIES))
    parser.add_argument("--run", type=Path, default=WORK / "probe_nano", help="a trained run")
    parser.add_argument("--pairs", type=positive, help=f"of {POINTS_PER_PAIR} points each")
    parser.add_argument("--scenes", type=int, help=f"seed of the scenes, {SEED} if not given")
    parser.add_argument("--mask-seeds", type=positive, help=f"how many, {MASK_SEEDS} if not given")
    parser.add_argument("--threads", type=int, default=1)
    for word, (name, what) in FOR_ZOOM.items():
        kind = partial(at_least, 0) if word == "--keep-hidden" else positive
        parser.add_argument(word, dest=name, type=kind, help=f"{what}, for zoom")
    parser.add_argument("--tag", help="the result file is engine_WHAT_TAG.json")
    parser.add_argument("--folder", type=Path, help="where the result file goes")
    options = parser.parse_args()
    if not options.run.is_dir():
        sys.exit(
            f"there is no run at {options.run}; make it with `python benchmarks/measure_probe.py "
            "nano`, or name one: --run DIR"
        )
    given = {word: getattr(options, name) for word, (name, _) in FOR_ZOOM.items()}
    chosen = {word: number for word, number in given.items() if number is not None}
    for word, number in chosen.items():
        if options.what != "zoom":
            sys.exit(f"got {word} {number} for {options.what}; it is an option of zoom alone")
    if (options.augmentations or 1) > len(GUISES):
        sys.exit(f"got --augmentations {options.augmentations}; use {len(GUISES)} at most")
    torch.set_num_threads(options.threads)
    study = partial(STUDIES[options.what], **{FOR_ZOOM[word][0]: n for word, n in chosen.items()})
    scenes, seeds = options.scenes or SEED, range(options.mask_seeds or MASK_SEEDS)
    points = hard_points(options.pairs or NUM_PAIRS[options.what], scenes)
    start = time.monotonic()
    with torch.no_grad():
        figures = study(load(options.run).eval(), points, seeds)
    figures["num_points"], figures["mask_seeds"] = points.visible.numel(), list(seeds)
    figures["minutes"] = round((time.monotonic() - start) / 60, 2)
    trained = origin(options.run) | {"model_git_sha": note_of(options.run)["git_sha"]}
    words = trained["trained_with"].replace(str(SHARED), "../shared/data")
    trained["trained_with"] = re.sub(
        r"(init_from|quantizer)=(?!checkpoints/)\S*/\S+", r"\1=RUN", words
    )
    figures["model"] = trained
    command = f"python benchmarks/measure_engine.py {options.what}"
    if options.run.resolve().is_relative_to(ROOT):  # a model that comes with the repository
        command += f" --run {options.run.resolve().relative_to(ROOT)}"
    sample = {
        "--pairs": options.pairs,
        "--scenes": options.scenes,
        "--mask-seeds": options.mask_seeds,
    }
    chosen |= {word: number for word, number in sample.items() if number is not None}
    command += "".join(f" {word} {number}" for word, number in chosen.items())
    name = "_".join(["engine", options.what, *([options.tag] if options.tag else [])]) + ".json"
    path = write_result(name, figures, command, sorted({scenes, *seeds}), options.folder)
    print(path.read_text())


if __name__ == "__main__":
    main()
