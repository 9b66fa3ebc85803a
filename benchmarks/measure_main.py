"""Measure the long promises of ``claims_main.py`` and keep their figures and logs.

    python benchmarks/measure_main.py easy 0        a demo run and its evaluation, seed 0
    python benchmarks/measure_main.py hard          experiment=lras_nano and its evaluation
    python benchmarks/measure_main.py real          ingest, training on clips, real frame pairs
    python benchmarks/measure_main.py suite         how long the tests take

Real clips and pairs are looked for in ``videos`` and ``flow_gt`` under ``$LRAS_SHARED/data`` (or
``../shared/data``). ``--run DIR`` evaluates a run that was trained before instead of training one.
"""

import argparse
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch

from benchmarks.result_file import RESULTS, ROOT, figures_of, write_result
from data.datamodule import ClipDataModule
from lras.checkpoint import load
from lras.quantizer_module import single_frames
from tracing.benchmarks.provenance import git_sha

LOGS = RESULTS / "logs"
WORK = Path(os.environ.get("LRAS_RUNS", ROOT / "runs")) / "claims"
SHARED = Path(os.environ.get("LRAS_SHARED", ROOT.parent / "shared")) / "data"


def run(log: Path, *words: str) -> float:
    """Run a command of the repository, its output appended to ``log``; wall-clock seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("a") as file:
        file.write(f"$ python {shlex.join(words)}\n")
        file.flush()
        done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=file, stderr=file)
    if done.returncode:
        sys.exit(f"`python {shlex.join(words)}` ended with status {done.returncode}; see {log}")
    return time.monotonic() - start


def train(name: str, run_dir: Path, log: Path, *overrides: str) -> None:
    run(log, "train.py", f"experiment={name}", f"hydra.run.dir={run_dir}", *overrides)


def note_of(run_dir: Path) -> dict:
    """What train.py noted beside the weights: seconds, git sha, steps."""
    return json.loads((run_dir / "export" / "config.json").read_text())["note"]


def scenes(name: str, experiment: str, scene: str, seed: int, done: Path | None) -> None:
    """Train (unless done) and evaluate on held-out scenes; write NAME.json."""
    run_dir, log = done or WORK / name, LOGS / f"{name}.log"
    if done is None:
        log.unlink(missing_ok=True)
        train(experiment, run_dir, log, f"seed={seed}")
    out = WORK / f"{name}-eval"
    words = ["eval.py", f"ckpt={run_dir}", "task=synthetic", f"scene={scene}", "report=true"]
    words += ["num_pairs=64"] if scene == "hard" else []  # of four points each
    seconds = run(log, *words, "controls=true", f"hydra.run.dir={out}")
    figures = figures_of(json.loads((out / "results.json").read_text()))
    note = note_of(run_dir)
    figures["minutes"] = round((note["seconds"] + seconds) / 60, 2)
    if scene == "hard":
        # A moving background and two sprites in every test scene; banks of textures never meet.
        figures |= {"num_moving_layers": 3, "shared_textures": shared_textures(seed)}
        figures["log"] = str(log.relative_to(ROOT))
    command = f"python benchmarks/measure_main.py {'hard' if scene == 'hard' else f'easy {seed}'}"
    write_result(f"{name}.json", figures, command, [seed], sha=note["git_sha"])


def shared_textures(seed: int) -> int:
    """Textures of the evaluation bank that stand in the training bank too, pixel for pixel."""
    from data.textures import texture_bank

    trained = {t.numpy().tobytes() for t in texture_bank("train", seed)}
    return sum(t.numpy().tobytes() in trained for t in texture_bank("eval", 0, count=100))


def real(done: Path | None) -> None:
    """Ingest, train and trace real video; write real_video.json."""
    log, clips = LOGS / "real_video.log", WORK / "clips"
    run_dir, sha = done or WORK / "real_video", git_sha()
    if done is None:
        log.unlink(missing_ok=True)
        run(log, "-m", "data.ingest", f"videos={SHARED / 'videos'}", f"out={clips}", "size=64")
        train("real_video", run_dir, log, f"data.root={clips}")
    out = WORK / "real_video-eval"
    words = ["eval.py", f"ckpt={run_dir}", "task=flow_pairs", f"task.root={SHARED / 'flow_gt'}"]
    words += ["task.points_per_pair=32", "controls=false", "report=true"]
    run(log, *words, f"hydra.run.dir={out}")
    evaluation = json.loads((out / "results.json").read_text())
    rows = {row["name"]: row["epe"] for row in evaluation["tracers"]}
    losses = training_losses(run_dir)
    tenth = max(1, len(losses) // 10)
    figures = {
        "num_videos": len(sources(clips)),
        "num_pairs": evaluation["dataset"]["num_pairs"],
        "loss_first_tenth_nats": sum(losses[:tenth]) / tenth,
        "loss_last_tenth_nats": sum(losses[-tenth:]) / tenth,
        "unigram_entropy_nats": unigram_entropy(run_dir, clips),
        "input_px": load(run_dir).image_size,
        "epe_px": {name.split("@")[0]: epe for name, epe in reversed(rows.items())},
        "table": rows,
        "minutes": round(note_of(run_dir)["seconds"] / 60, 2),
    }
    command = "python benchmarks/measure_main.py real"
    write_result("real_video.json", figures, command, [0], sha=note_of(run_dir).get("git_sha", sha))


def sources(clips: Path) -> set[str]:
    """Names of the videos that the training clips came from."""
    found = set()
    for shard in (clips / "train").glob("*.tar"):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    found.add(json.load(tar.extractfile(member))["source"])
    return found


def training_losses(run_dir: Path) -> list[float]:
    """Training loss of every logged step, nats per code."""
    with (run_dir / "metrics.csv").open() as file:
        column = [row.get("train/nats_per_code") for row in csv.DictReader(file)]
    return [float(value) for value in column if value]


def unigram_entropy(run_dir: Path, clips: Path, batches: int = 100) -> float:
    """Entropy in nats of the codes of the training clips, places and neighbors ignored."""
    model, data = load(run_dir), ClipDataModule(clips, batch_size=16)
    counts = torch.zeros(model.quantizer.cfg.num_codes, dtype=torch.float64)
    for _, batch in zip(range(batches), data.train_dataloader(), strict=False):
        codes = model.encode(single_frames(batch["frames"])).flatten()
        counts += torch.bincount(codes, minlength=len(counts))
    share = counts / counts.sum()
    return -(share * share.clamp_min(1e-300).log()).sum().item()


def suite() -> None:
    """Time the two test commands; write suite_times.json."""
    figures = {}
    for name, words in (("make_test", []), ("quick", ["-m", "not slow"])):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *words], cwd=ROOT, capture_output=True, text=True
        )
        failed = re.search(r"(\d+) failed", done.stdout)
        figures[f"{name}_minutes"] = round((time.monotonic() - start) / 60, 2)
        figures[f"{name}_failures"] = int(failed[1]) if failed else int(bool(done.returncode))
    write_result("suite_times.json", figures, "python benchmarks/measure_main.py suite", [0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("easy", "hard", "real", "suite"))
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--run", type=Path, help="evaluate this run instead of training one")
    asked = parser.parse_args()
    if asked.what == "easy":
        scenes(f"easy_seed{asked.seed}", "demo", "easy", asked.seed, asked.run)
    elif asked.what == "hard":
        scenes("hard", "lras_nano", "hard", asked.seed, asked.run)
    elif asked.what == "real":
        real(asked.run)
    else:
        suite()


if __name__ == "__main__":
    main()
