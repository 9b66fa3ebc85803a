"""Causal attention on CPU, forward and backward: our slices against the fused kernel.

    python benchmarks/attention.py [--keep]

The two are timed in turn in one process and compared pair by pair, since machines are shared; the
ratio is fused / slices, above 1 where slices are faster. Shapes are those of the nano curriculum.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
import torch.nn.functional as F

from benchmarks.result_file import write_result
from lras.layers import sliced_attention

SHAPES = [(64, 4, 75, 32), (32, 4, 192, 32), (20, 4, 460, 32), (12, 4, 768, 32)]


def seconds(attention, tensors) -> float:
    """One forward and backward."""
    start = time.perf_counter()
    attention(*tensors).sum().backward()
    return time.perf_counter() - start


def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def compare(shape: tuple[int, ...], dtype: torch.dtype, pairs: int = 20) -> dict:
    """Median of the paired ratios, with the times it came from."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    for attention in (fused, sliced_attention):
        seconds(attention, tensors)
    times = [(seconds(fused, tensors), seconds(sliced_attention, tensors)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in times)
    return {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "fused_ms": 1e3 * statistics.median(a for a, _ in times),
        "slices_ms": 1e3 * statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[pairs // 4], ratios[3 * pairs // 4]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--keep", action="store_true", help="write benchmarks/results/attention.json"
    )
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            rows.append(row := compare(shape, dtype))
            low, high = row["ratio_quartiles"]
            print(
                f"{row['dtype']:9} {shape!s:18} fused {row['fused_ms']:7.1f} ms  slices "
                f"{row['slices_ms']:7.1f} ms  ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}]"
            )
    if asked.keep:
        figures = {"rows": rows, "threads": asked.threads}
        write_result("attention.json", figures, "python benchmarks/attention.py --keep", [0])


if __name__ == "__main__":
    main()
