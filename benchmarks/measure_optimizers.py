"""Steps until flow emerges, by optimizer: Muon against AdamW at several rates, three seeds each.

    python benchmarks/measure_optimizers.py                 all runs; what is done already is kept
    python benchmarks/measure_optimizers.py --seeds 0       one seed

Every run is ``experiment=emergence`` and ends when the probe's EPE is at most half of zero
motion's, or after 1,000 steps. Optimizers of one seed share its quantizer, scenes and orders. The
state of every run stands in ``runs/optimizers``: an interrupted command goes on where it was.
``optimizers.json`` is written anew after every run; ``claims_speed.py`` says what it holds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

from benchmarks.result_file import ROOT, write_result

WORK = Path(os.environ.get("LRAS_RUNS", ROOT / "runs")) / "optimizers"
CHOICES = {
    "muon": ("optimizer=muon",),
    "adamw_1e-3": ("optimizer=adamw", "optimizer.lr=1e-3"),
    "adamw_3e-3": ("optimizer=adamw", "optimizer.lr=3e-3"),
}
EMERGED = 0.5  # EPE over that of zero motion
POLL_S = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    options = parser.parse_args()
    for choice in options.choices:
        for seed in options.seeds:
            run_once(choice, seed)
            write(options.seeds)


def write(seeds: list[int]) -> None:
    """All runs that are done, as a result file."""
    done = {}
    for path in sorted(WORK.glob("*.json")):
        done[path.stem] = json.loads(path.read_text())
    command = "python benchmarks/measure_optimizers.py"
    write_result("optimizers.json", {"emerged_at_share": EMERGED, "runs": done}, command, seeds)


def run_once(choice: str, seed: int) -> None:
    """One training to its emergence, or to its end; nothing where that was done before."""
    name = f"{choice}-seed{seed}"
    told = WORK / f"{name}.json"
    if told.is_file():
        return
    quantizer, folder = quantizer_of(seed), WORK / name
    words = [f"seed={seed}", f"quantizer={quantizer}", *CHOICES[choice]]
    start = time.monotonic()
    curve, ended = trained(folder, *words)
    emerged = next((p["step"] for p in curve if share(p) <= EMERGED), None)
    found = {
        "optimizer": choice,
        "seed": seed,
        "steps_to_emergence": emerged,
        "steps_run": curve[-1]["step"],
        "ended": ended,
        "minutes": round((time.monotonic() - start) / 60, 2),
        "curve": [[p["step"], round(share(p), 4)] for p in curve],
    }
    scratch = told.with_suffix(".part")
    scratch.write_text(json.dumps(found) + "\n")
    scratch.replace(told)


def quantizer_of(seed: int) -> Path:
    """A run that holds the quantizer of this seed, trained here the first time."""
    folder = WORK / f"quantizer-seed{seed}"
    if not (folder / "export").is_dir():
        words = (f"seed={seed}", "trainer.max_steps=1", "callbacks.probe=null")
        status = subprocess.run(command(folder, *words), cwd=ROOT).returncode
        if status:
            sys.exit(f"the quantizer of seed {seed} was not trained (exit status {status})")
    return folder


def trained(folder: Path, *words: str) -> tuple[list[dict], str]:
    """The probe's history of a run that is ended as soon as flow has emerged, and why it ended."""
    history = folder / "probe.json"
    with subprocess.Popen(command(folder, "resume=auto", *words), cwd=ROOT) as process:
        while process.poll() is None:
            time.sleep(POLL_S)
            curve = json.loads(history.read_text()) if history.is_file() else []
            if any(share(point) <= EMERGED for point in curve):
                process.terminate()
                process.wait()
                return curve, "emerged"
    if process.returncode:
        sys.exit(f"{folder.name} ended with status {process.returncode}; see {folder}")
    return json.loads(history.read_text()), "at its last step"


def share(point: dict) -> float:
    """EPE of one probe over that of zero motion on the same points."""
    return point["flow/held_out/epe"] / point["flow/held_out/zero_epe"]


def command(folder: Path, *words: str) -> list[str]:
    own = ("experiment=emergence", f"hydra.run.dir={folder}", "threads=1", "~callbacks.progress")
    return [sys.executable, "train.py", *own, *words]


if __name__ == "__main__":
    main()
