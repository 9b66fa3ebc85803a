"""One training that is killed again and again, at seeded moments, and started again each time.

Is what it leaves bit for bit that of an undisturbed run? As JSON:
python -m tests.killed_runs         a training on synthetic scenes
python -m tests.killed_runs clips   on clips from disk
"""

import json
import os
import random
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from doors.checkpoints import steps_in
from tests.distributed_runs import ROOT
from tests.fake_datasets import write_clip_shards

STEPS = 60
WORDS = (
    "experiment=smoke", "deterministic=true", "trainer.precision=32-true",
    "callbacks=[ema,guard,default]",
    "callbacks.checkpoint.every_n_train_steps=2", "callbacks.probe.every_n_steps=20",
    "callbacks.pictures.every_n_steps=null", "~callbacks.progress",
)  # fmt: skip
SCENES = (f"data.stages.0.steps={STEPS // 2}", f"data.stages.1.steps={STEPS // 2}")
# Epochs of seven steps, so that the run is killed in the middle of many.
CLIPS = (
    "data=clips", "~data.stages", "~data.textures", "~data.val_batches", "data.batch_size=4",
    "data.num_workers=1", "data.max_gap=2", f"trainer.max_steps={STEPS}",
    "+trainer.val_check_interval=20", "+trainer.check_val_every_n_epoch=null",
)  # fmt: skip
NUM_CLIPS = 30


def start(folder: Path, *words: str) -> int:
    """``train.py`` in a child that has all its imports already; its process id."""
    if child := os.fork():
        return child
    status = 1
    try:
        os.chdir(ROOT)
        folder.mkdir(parents=True, exist_ok=True)
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["train.py", *WORDS, *words, f"hydra.run.dir={folder}"]
        runpy.run_path("train.py", run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
        print(ended.code, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def newest(folder: Path) -> int:
    return next(iter(steps_in(folder / "checkpoints")), 0)


def killed_and_whole(work: Path, kills: int = 10, seed: int = 0, clips: bool = False) -> dict:
    """Train once undisturbed and once killed ``kills`` times; what happened, and what differs."""
    torch.set_num_threads(1)
    import train  # noqa: F401  here once, not in every child

    draw = random.Random(seed)
    first, calm = work / "first", work / "calm"
    data: tuple[str, ...] = SCENES
    if clips:
        for split in ("train", "val"):
            write_clip_shards(work / "clips" / split, NUM_CLIPS, size=16)
        data = (*CLIPS, f"data.root={work / 'clips'}")
    words = (*data, f"quantizer={first}")
    for folder, given in (
        (first, (*data, "trainer.max_steps=1", "+trainer.limit_val_batches=0")),
        (calm, words),
    ):
        if status := wait(start(folder, *given)):
            raise RuntimeError(f"an undisturbed run ended with {status}: {said(folder)}")
    run, killed_at = work / "killed", []
    for _ in range(kills):
        before = newest(run)
        child = start(run, "resume=auto", *words)
        # From the first sign of life on, at any moment of some steps, writing included.
        deadline = time.monotonic() + 60
        while newest(run) == before and time.monotonic() < deadline and alive(child):
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.2))
        os.kill(child, signal.SIGKILL)
        if (status := wait(child)) != -signal.SIGKILL:
            raise RuntimeError(f"the run ended with {status} on its own: {said(run)}")
        killed_at.append(newest(run))
    if status := wait(start(run, "resume=auto", *words)):
        raise RuntimeError(f"the run ended with {status} at last: {said(run)}")
    last = [
        torch.load(each / "checkpoints" / "last.ckpt", weights_only=True) for each in (calm, run)
    ]
    one, other = map(kept, last)
    differing = [name for name in one if not same(one[name], other.get(name))]
    return {"kills": len(killed_at), "killed_after_step": killed_at, "differing": differing}


def kept(checkpoint: dict) -> dict:
    """What must be equal: all but the time that probes took."""
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
    names += ("lr_schedulers", "global_step", "SyntheticDataModule", "ClipDataModule")
    found = {name: checkpoint[name] for name in names if name in checkpoint}
    return found | {"random": checkpoint["callbacks"]["RandomState"]}


def same(one: object, other: object) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one.equal(other) if hasattr(one, "equal") else one == other


def alive(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()[-2000:]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(killed_and_whole(Path(work), clips="clips" in sys.argv[1:])))
