"""Patch-parallel prediction of a published-size scene: key-value cache against four forwards.

    python benchmarks/official_read_out.py [--keep] [--layers 8] [--dim 256] [--heads 4]

256-px frames (1,024 patches of four codes, 65,536 codes), a tenth of frame 1 revealed, float32 on
CPU. Both read the same random model in turn, in one process; the ratio is four forwards / cache,
above 1 where the cache is faster. Machines are shared, so ratios are taken pair by pair.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch

from benchmarks.result_file import write_result
from lras.config import PredictorConfig
from lras.official.packing import published_orders
from lras.official.read_out import patch_parallel, read_condition
from lras.predictor import FramePredictor
from tests.reference.four_forwards import four_forwards, whole_pass

RESULT = "official_read_out.json"
SEED, HIDDEN_SHARE = 0, 0.9


def random_predictor(layers: int, dim: int, heads: int) -> FramePredictor:
    """Published geometry; weights loud enough for attention to matter."""
    torch.manual_seed(SEED)
    cfg = PredictorConfig.official(
        image_size=256, patch_px=8, num_codes=65_536, num_layers=layers, dim=dim, num_heads=heads
    )
    predictor = FramePredictor(cfg).eval().requires_grad_(False)
    for name, weight in predictor.named_parameters():
        if weight.ndim == 2:
            weight.normal_(std=0.5 if "table" in name else 1.5 * weight.shape[1] ** -0.5)
    return predictor


def random_scene(predictor: FramePredictor) -> tuple:
    grid, draw = predictor.cfg.grid, torch.Generator().manual_seed(SEED)
    shape = (2, 1, grid.num_patches, grid.codes_per_patch)
    codes0, codes1 = torch.randint(predictor.cfg.num_codes, shape, generator=draw)
    orders = published_orders(grid.num_patches, HIDDEN_SHARE, SEED)
    given = (order[None] for order in (orders.order0, orders.revealed, orders.hidden))
    return codes0, codes1, *given


def with_cache(predictor: FramePredictor, scene: tuple) -> list:
    codes0, codes1, order0, revealed, asked = scene
    grid = predictor.cfg.grid
    cache = read_condition(predictor, codes0, codes1, order0, revealed, grid)
    return list(patch_parallel(predictor, cache, asked, grid))


def by_four_forwards(predictor: FramePredictor, scene: tuple) -> list:
    run = partial(whole_pass, predictor)
    return four_forwards(run, *scene, predictor.cfg.num_codes, predictor.cfg.grid)


def timed(read, predictor: FramePredictor, scene: tuple) -> tuple[list, dict[str, float]]:
    """What a read-out answers, and its seconds by the wall clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    steps = read(predictor, scene)
    spent = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    return steps, spent


@torch.no_grad()
def compare(layers: int, dim: int, heads: int, pairs: int) -> dict:
    """Worst difference of a logit, tokens that differ, and the median of the paired ratios."""
    predictor = random_predictor(layers, dim, heads)
    scene, times, worst, differ = random_scene(predictor), [], 0.0, 0
    for _ in range(pairs):
        slow, slow_seconds = timed(by_four_forwards, predictor, scene)
        fast, fast_seconds = timed(with_cache, predictor, scene)
        times.append((slow_seconds, fast_seconds))
        for (logits, tokens), step in zip(slow, fast, strict=True):
            for ours, theirs in zip(step.logits[0].split(64), logits[0].split(64), strict=True):
                worst = max(worst, float((ours - theirs).abs().max()))
            differ += int((tokens != step.tokens).sum())
        del slow, fast
    return {
        "layers": layers,
        "dim": dim,
        "heads": heads,
        "worst_logit_difference": worst,
        "tokens_that_differ": differ,
        "four_forwards_seconds": statistics.median(slow["wall"] for slow, _ in times),
        "cache_seconds": statistics.median(fast["wall"] for _, fast in times),
        "ratio": median_ratio(times, "wall"),
        "processor_ratio": median_ratio(times, "processor"),
        "ratios": [slow["wall"] / fast["wall"] for slow, fast in times],
        "threads": torch.get_num_threads(),
    }


def median_ratio(times: list, clock: str) -> float:
    return statistics.median(slow[clock] / fast[clock] for slow, fast in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help=f"write benchmarks/results/{RESULT}")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = compare(options.layers, options.dim, options.heads, options.pairs)
    print(
        f"{found['layers']} layers of {found['dim']}: four forwards "
        f"{found['four_forwards_seconds']:.1f} s, cache {found['cache_seconds']:.1f} s, ratio "
        f"{found['ratio']:.2f} ({found['processor_ratio']:.2f} of processor time); worst "
        f"difference of a logit {found['worst_logit_difference']:.1e}"
    )
    if options.keep:
        write_result(RESULT, found, "python benchmarks/official_read_out.py --keep", [SEED])


if __name__ == "__main__":
    main()
