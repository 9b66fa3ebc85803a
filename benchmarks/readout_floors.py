"""How well the best read-out by patches can do: a detector that always names the right patch.

    python benchmarks/readout_floors.py [--points 1000000] [--json FILE]      seconds

Points are uniform; the answer is the center of the patch that holds the point. Without zoom the
frame is 256x256 px. With k windows it is 480x854 px and read in square windows, the first 480 px
wide and each three quarters of the one before, 256 px when read; only the last one decides, and
where it lies beside the point is random. Scores are at 256x256, as everywhere: a model without zoom
cannot beat its row.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.result_file import write_result
from data.coords import rescale_points
from data.types import PointPairs
from tracing.benchmarks.base import perfect_answer
from tracing.crops import Boxes, to_crop, to_frame
from tracing.metrics import functional

SIDE = 256  # px of what is read
FRAME_HW = (480, 854)
SHRINK = 0.75
# What an independent calculation found: delta_avg in percent, AD in px at 256x256.
SQUISH = {4: (79.7, 1.53), 8: (60.6, 3.06), 16: (40.9, 6.12)}  # by patch_px
ZOOM = {  # of patches of 8 px, by number of windows
    1: (67.6, 2.45),
    2: (74.6, 1.84),
    3: (82.1, 1.37),
    4: (89.7, 1.03),
    5: (94.4, 0.77),
    6: (99.6, 0.58),
    8: (100.0, 0.33),
}


def squish_floor(patch_px: int, num_points: int, seed: int) -> tuple[float, float]:
    """delta_avg (percent) and AD (px) where frames of 256x256 px are read once."""
    target = _uniform(num_points, (SIDE, SIDE), seed)
    return _scores(_named(target, patch_px), target)


def zoom_floor(num_windows: int, patch_px: int, num_points: int, seed: int) -> tuple[float, float]:
    """delta_avg (percent) and AD (px) of 480x854 px frames read in the last of so many windows."""
    side = FRAME_HW[0] * SHRINK ** (num_windows - 1)
    target = _uniform(num_points, FRAME_HW, seed)
    most = target.new_tensor([FRAME_HW[1] - side, FRAME_HW[0] - side])
    corner = target - _uniform(num_points, (side, side), seed + 1)
    boxes = Boxes(torch.minimum(corner.clamp_min(0), most), (side, side))  # inside the frame
    read = _named(to_crop(target, boxes, (SIDE, SIDE)), patch_px)
    answer = to_frame(read, boxes, (SIDE, SIDE))
    at_256 = (rescale_points(each, FRAME_HW, (SIDE, SIDE)) for each in (answer, target))
    return _scores(*at_256)


def _uniform(num_points: int, hw: tuple[float, float], seed: int) -> Float[Tensor, "points 2"]:
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(num_points, 2, generator=generator, dtype=torch.float64)
    return share * share.new_tensor([hw[1], hw[0]])


def _named(target: Float[Tensor, "points 2"], patch_px: int) -> Float[Tensor, "points 2"]:
    """Centers of the patches that hold the points, as the tasks' floors are read."""
    frames = torch.zeros(1).expand(1, 3, SIDE, SIDE)  # only their size matters
    seen = torch.ones(1, len(target), dtype=torch.bool)
    pairs = PointPairs(frames, frames, target[None], target[None], seen, seen, "uniform")
    return perfect_answer(pairs, patch_px, "query", patch_px)[0]


def _scores(answer: Float[Tensor, "points 2"], target: Float[Tensor, "points 2"]) -> tuple:
    seen = torch.ones(len(target), dtype=torch.bool)
    delta = functional.delta_avg(answer, target, seen).item()
    return 100 * delta, functional.endpoint_error(answer, target, seen).item()


def floors(num_points: int, seed: int) -> list[dict]:
    """One row for each case, with what it should be beside what it is."""
    cases = [("256x256", 1, patch, *SQUISH[patch]) for patch in SQUISH]
    cases += [("480x854", windows, 8, *ZOOM[windows]) for windows in ZOOM]
    rows = []
    for frame, windows, patch_px, delta, ad in cases:
        if frame == "256x256":
            found = squish_floor(patch_px, num_points, seed)
        else:
            found = zoom_floor(windows, patch_px, num_points, seed)
        rows.append(
            {
                "frame": frame,
                "windows": windows,
                "patch_px": patch_px,
                "delta_avg_percent": found[0],
                "ad_px": found[1],
                "expected_delta_avg_percent": delta,
                "expected_ad_px": ad,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=1_000_000, help="uniform points of each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="result file to write")
    options = parser.parse_args()
    rows = floors(options.points, options.seed)
    table = Table("frame", "windows", "patch (px)", "delta_avg (%)", "AD (px)", "expected")
    for row in rows:
        table.add_row(
            row["frame"],
            str(row["windows"]),
            str(row["patch_px"]),
            f"{row['delta_avg_percent']:.2f}",
            f"{row['ad_px']:.3f}",
            f"{row['expected_delta_avg_percent']:.1f} / {row['expected_ad_px']:.2f}",
        )
    Console().print(table)
    if options.json:
        figures = {"num_points": options.points, "rows": rows}
        command = shlex.join(["python", "benchmarks/readout_floors.py", *sys.argv[1:]])
        seeds = [options.seed, options.seed + 1]
        write_result(options.json.name, figures, command, seeds, options.json.resolve().parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
