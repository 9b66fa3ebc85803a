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
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.result_file import RESULTS, ROOT, figures_of, write_result
from data.datamodule import ClipDataModule
from data.synthetic import SceneSampler
from data.textures import EVALUATION_PHOTOS, TRAINING_PHOTOS, texture_bank
from lras.checkpoint import load
from lras.quantizer_module import single_frames
from tracing.benchmarks.provenance import git_sha

LOGS, PHOTOS = RESULTS / "logs", (TRAINING_PHOTOS, EVALUATION_PHOTOS)
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


def train(name: str, experiment: str, *overrides: str) -> Path:
    """Train from nothing; the run's folder."""
    run_dir = WORK / name
    shutil.rmtree(run_dir, ignore_errors=True)
    words = ["train.py", f"experiment={experiment}", f"hydra.run.dir={run_dir}", *overrides]
    run(WORK / f"{name}.out", *words)
    return run_dir


def note_of(run_dir: Path) -> dict:
    """What train.py noted beside the weights of a run or an export: command, seconds, git sha."""
    export = run_dir / "export" if (run_dir / "export").is_dir() else run_dir
    return json.loads((export / "config.json").read_text())["note"]


def origin(run_dir: Path) -> dict:
    """How the run was trained and where its figures came from, without paths of one machine."""
    words = [w for w in shlex.split(note_of(run_dir)["command"]) if "hydra.run.dir=" not in w]
    return {"trained_with": shlex.join(words), "evaluated_at": git_sha()}


def keep_logs(run_dir: Path, name: str) -> Path:
    """Copy the run's log, probe history and metrics beside the results; the log's path."""
    LOGS.mkdir(parents=True, exist_ok=True)
    kept = LOGS / f"{name}.log"
    kept.write_text((run_dir / "train.log").read_text().replace(str(run_dir), "RUN"))
    shutil.copy(run_dir / "probe.json", LOGS / f"{name}.probe.json")
    shutil.copy(run_dir / "metrics.csv", LOGS / f"{name}.metrics.csv")
    return kept


def scenes(name: str, experiment: str, scene: str, seed: int, done: Path | None) -> None:
    """Train (unless done) and evaluate on held-out scenes; write NAME.json."""
    run_dir = done or train(name, experiment, f"seed={seed}")
    out, log = WORK / f"{name}-eval", keep_logs(run_dir, name)
    words = ["eval.py", f"ckpt={run_dir}", "task=synthetic", f"scene={scene}", "report=true"]
    # Hard scenes: fewer pairs (of four points each) and more masks, in about the same time.
    words += ["num_pairs=64", "tracer.cfg.num_masks=24"] if scene == "hard" else []
    seconds = run(WORK / f"{name}.out", *words, "controls=true", f"hydra.run.dir={out}")
    figures, note = figures_of(json.loads((out / "results.json").read_text())), note_of(run_dir)
    spent = note["seconds"] + (seconds if scene == "easy" else 0)
    figures["minutes"] = round(spent / 60, 2)
    figures["evaluation_minutes"] = round(seconds / 60, 2)
    if scene == "hard":
        figures["num_moving_layers"] = fewest_moving_layers(scene)
        figures["shared_textures"] = shared_textures(seed)
        figures["log"] = str(log.relative_to(ROOT))
    command = f"python benchmarks/measure_main.py {'hard' if scene == 'hard' else f'easy {seed}'}"
    write_result(f"{name}.json", figures | origin(run_dir), command, [seed], sha=note["git_sha"])


def fewest_moving_layers(scene: str, num_scenes: int = 64) -> int:
    """Least number of layers, each with a motion of its own, in view in one of the scenes."""
    cfg = instantiate(OmegaConf.load(ROOT / "configs" / "scene" / f"{scene}.yaml"))
    sampler = SceneSampler(cfg, texture_bank("eval", 0, count=100))
    scenes = sampler.sample(num_scenes, torch.Generator().manual_seed(0))
    fewest = cfg.sprites + 1
    for flow, layer in zip(scenes.flow, scenes.layer, strict=True):
        motions = [flow[:, layer == each].mean(1) for each in layer.unique()]
        moving = {tuple(m.tolist()) for m in motions if m.norm() > 0}
        fewest = min(fewest, len(moving))
    return fewest


def shared_textures(seed: int) -> int:
    """Photographs and textures of the evaluation that training saw too."""
    photos = [{f for names in split.values() for f in names} for split in PHOTOS]
    trained = {texture.numpy().tobytes() for texture in texture_bank("train", seed)}
    same = [t for t in texture_bank("eval", 0, count=100) if t.numpy().tobytes() in trained]
    return len(photos[0] & photos[1]) + len(same)


def real(done: Path | None) -> None:
    """Ingest, train and trace real video; write real_video.json."""
    clips, out, log = WORK / "clips", WORK / "real_video-eval", WORK / "real_video.out"
    if done is None:
        shutil.rmtree(clips, ignore_errors=True)
        run(log, "-m", "data.ingest", f"videos={SHARED / 'videos'}", f"out={clips}", "size=64")
    run_dir = done or train("real_video", "real_video", f"data.root={clips}")
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
        "trained_with": "python train.py experiment=real_video data.root=CLIPS",
        "evaluated_at": git_sha(),
    }
    keep_logs(run_dir, "real_video")
    sha = note_of(run_dir)["git_sha"]
    write_result("real_video.json", figures, "python benchmarks/measure_main.py real", [0], sha=sha)


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
    for name, target in (("make_test", "test"), ("quick", "quick")):
        start = time.monotonic()
        done = subprocess.run(["make", target], cwd=ROOT, capture_output=True, text=True)
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
