"""Measure the long promises of ``claims_scale.py``: minutes, on the CPU.

python benchmarks/measure_scale.py ranks     2 processes by DDP and FSDP2 against 1, 20 steps
python benchmarks/measure_scale.py kills     one training killed 10 times against an undisturbed
"""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

from benchmarks.result_file import ROOT, write_result

SOURCES = {
    "ranks": ("tests.distributed_runs", "optimizer=adamw"),
    "kills": ("tests.killed_runs",),
}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in SOURCES:
        sys.exit(f"error: name one of {', '.join(SOURCES)}.")
    what = sys.argv[1]
    command = [sys.executable, "-m", *SOURCES[what]]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    figures = json.loads(done.stdout)
    write_result(f"scale_{what}.json", figures, f"python benchmarks/measure_scale.py {what}", [0])


if __name__ == "__main__":
    main()
