"""Does converting a published 7B checkpoint stay small in memory? RssAnon of the process, at most.

    python benchmarks/official_convert.py --scratch DIR     write results/official_convert.json

A random checkpoint of the published 7B shape (bfloat16, 14 GB) is built on disk tensor by tensor,
converted by ``python -m lras.official convert`` in a process of its own, and compared with what was
written. Needs 29 GB below DIR and some minutes; both files are deleted. With less room it is not
measured and says so (exit status 77). ``--layers`` and ``--dim`` make it smaller.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch

from benchmarks.claim import NotMeasuredError
from benchmarks.result_file import CANNOT_MEASURE_HERE, ROOT, write_result
from lras.checkpoint import read
from lras.official.export import write_official
from lras.official.files import read_official
from lras.official.names import predictor_shapes, to_ours

RESULT = "official_convert.json"
LAYERS, DIM, HEADS = 32, 4096, 32  # the published 7B
SEED = 0


def shape_of_7b(layers: int = LAYERS, dim: int = DIM, heads: int = HEADS) -> dict[str, Any]:
    """The published cfg of the RGB 7B, or of one with fewer layers and channels."""
    return {
        "block_size": 10_240,
        "vocab_size": 67_584,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": dim,
        "patch_size": 2,
        "dropout": 0.0,
        "bias": False,
        "frame_0_rgb_pos_range": (0, 5120),
        "frame_1_rgb_pos_range": (5120, 10_240),
        "rgb_range": (0, 65_536),
        "rgb_patch_0_idx_range": (65_536, 66_560),
        "rgb_patch_1_idx_range": (66_560, 67_584),
    }


def build(path: Path, cfg: dict[str, Any]) -> Path:
    """A random bfloat16 checkpoint of this cfg, written tensor by tensor."""
    generator = torch.Generator().manual_seed(SEED)
    like = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for name, shape in predictor_shapes(cfg).items()
    }
    return write_official(
        path, cfg, like, lambda _, into: into.normal_(std=0.02, generator=generator)
    )


def peak_anonymous_bytes(command: list[str]) -> int:
    """The most RssAnon that a process had, looked at every 5 ms.

    Raises:
        RuntimeError: the command failed.
    """
    process, peak = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        time.sleep(0.005)
    if process.returncode:
        raise RuntimeError(f"`{' '.join(command)}` ended with status {process.returncode}")
    return peak


def _anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(lines[0].split()[1]) if lines else 0


def measure(scratch: Path, cfg: dict[str, Any], max_shard: str = "5GB") -> dict[str, Any]:
    """Build, convert, compare.

    Raises:
        NotMeasuredError: there is not enough room below ``scratch``.
    """
    numbers = sum(torch.Size(shape).numel() for shape in predictor_shapes(cfg).values())
    scratch.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * 2 * numbers, shutil.disk_usage(scratch).free
    if free < 1.02 * needed:
        raise NotMeasuredError(
            f"two copies of {2 * numbers / 1e9:.1f} GB do not fit below {scratch} "
            f"({free / 1e9:.1f} GB left); pass --scratch DIR with more room."
        )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path, out = build(Path(folder) / "official.pt", cfg), Path(folder) / "export"
        words = ["-m", "lras.official", "convert", str(path), str(out), "--max-shard", max_shard]
        start = time.perf_counter()
        peak = peak_anonymous_bytes([sys.executable, *words])
        seconds = time.perf_counter() - start
        theirs, (_, ours) = read_official(path).weights, read(out)
        same = [torch.equal(ours[name], value) for name, value in to_ours(theirs, cfg["n_layer"])]
        return {
            "peak_anonymous_gb": peak / 1e9,
            "checkpoint_gb": 2 * numbers / 1e9,
            "convert_s": seconds,
            "tensors": len(same),
            "tensors_that_differ": len(same) - sum(same),
            "shards": len(list(out.glob("*.safetensors"))),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--dim", type=int, default=DIM)
    options = parser.parse_args()
    cfg = shape_of_7b(options.layers, options.dim)
    try:
        figures = measure(options.scratch, cfg)
    except NotMeasuredError as reason:
        print(f"skipped: {reason}", file=sys.stderr)
        return CANNOT_MEASURE_HERE
    print(figures)
    if (options.layers, options.dim) == (LAYERS, DIM):
        write_result(RESULT, figures, f"python benchmarks/{Path(__file__).name}", [SEED])
    return 0


if __name__ == "__main__":
    sys.exit(main())
