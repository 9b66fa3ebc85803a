"""What the loader costs: codes per second, time to resume, memory over time, scenes against steps.

    python benchmarks/data_loader.py [--quick] [--json FILE] [--only tokens resume memory scenes]

tokens   pairs of 2 x 1024 x 4 uint16 codes a second of one worker, and the ratio of its rate to
         plain webdataset's over the same tar files, raw bytes and decoded, in turn in one process
resume   seconds from the folder to the first batch after step 1,000,000 of a made-up folder of 100
         million samples (10 million with --quick)
memory   growth of resident memory, loader and worker, over 10,000 batches
scenes   synthetic pairs a second against those that steps of experiment=lras_nano take, by stage
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import numpy as np
import torch
import webdataset as wds
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from benchmarks.result_file import ROOT, write_result
from data.curriculum import CurriculumScenes
from data.datamodule import ClipDataModule
from data.index import ShardWriter, read_index, write_index
from data.shard_index import ShardIndex
from lras.predictor_module import PredictorModule

SIDE = 64  # cells: 1024 patches of 4 codes
BATCH = 16
RESUME_STEP = 1_000_000
BATCHES = 10_000


def write_tokens(folder: Path, num_clips: int, side: int, shard_clips: int) -> Path:
    """Clips of two frames of random codes: a sample is a pair."""
    rng = np.random.default_rng(0)
    writer = ShardWriter(folder, shard_clips, 4 * side, 2, kind="tokens", fingerprint="any")
    about = json.dumps({"source": "none", "fps": 30.0, "num_frames": 2}).encode()
    for clip in range(num_clips):
        file = BytesIO()
        np.save(file, rng.integers(0, 2**16, (2, side, side)).astype(np.uint16))
        writer.write({"__key__": f"{clip:08d}", "json": about, "codes.npy": file.getvalue()})
    writer.finish()
    return folder


def plain_webdataset(folder: Path, decode: bool) -> Callable[[], int]:
    """Read all samples with webdataset alone; with ``decode``, codes as an array too."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    stages = [wds.SimpleShardList(urls), wds.tarfile_to_samples()]
    pipeline = wds.DataPipeline(*stages, *([wds.decode()] if decode else []))

    def read() -> int:
        return sum(1 for sample in pipeline if sample["codes.npy"] is not None)

    return read


def tokens(work: Path, quick: bool) -> dict:
    num_clips, rounds = (1024, 5) if quick else (4096, 15)
    folder = write_tokens(work / "tokens" / "train", num_clips, SIDE, 256)
    data = ClipDataModule(work / "tokens", BATCH, max_gap=1)

    def ours() -> int:
        batches = islice(data.train_dataloader(), num_clips // BATCH)
        return sum(len(batch["key"]) for batch in batches)

    readers = {
        "ours": ours,
        "raw": plain_webdataset(folder, decode=False),
        "decoded": plain_webdataset(folder, decode=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for round_ in range(1 + rounds):  # the first warms up
        for name, read in readers.items():
            start = time.perf_counter()
            assert read() == num_clips
            if round_:
                rates[name].append(num_clips / (time.perf_counter() - start))
    ratios = {
        name: [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
        for name in ("raw", "decoded")
    }
    worker = iter(ClipDataModule(work / "tokens", BATCH, 1, max_gap=1).train_dataloader())
    next(worker)
    start = time.perf_counter()
    for _ in range(num_clips // BATCH):
        next(worker)
    return {
        "pairs_per_s": {name: statistics.median(each) for name, each in rates.items()},
        "pairs_per_s_one_worker": num_clips / (time.perf_counter() - start),
        "ratio_to_webdataset_raw": statistics.median(ratios["raw"]),
        "ratio_to_webdataset_decoded": statistics.median(ratios["decoded"]),
        "ratio_to_webdataset_raw_worst": min(ratios["raw"]),
    }


def made_up_folder(folder: Path, num_samples: int) -> Path:
    """An index of so many samples over links to one shard of 1,000."""
    write_tokens(folder / "one", 1000, 2, 1000)
    shard = read_index(folder / "one").shards[0]
    offsets = tuple(read_index(folder / "one").offsets_of(0).tolist())
    train = folder / "train"
    train.mkdir()
    shards = []
    for number in range(num_samples // 1000):
        name = f"tokens-{number:06d}.tar"
        if number % 30_000 == 0:  # a file takes only so many hard links
            original = train / name
            shutil.copy(folder / "one" / shard.name, original)
        else:
            os.link(original, train / name)
        shards.append(replace(shard, name=name, offsets=offsets, sources=(("none", 1000),)))
    write_index(train, ShardIndex(tuple(shards), 8, 2, kind="tokens", fingerprint="any"))
    return folder


def resume(work: Path, quick: bool) -> dict:
    num_samples = 10**7 if quick else 10**8
    made_up_folder(work / "made_up", num_samples)

    def first_batch(window: int | None, workers: int) -> float:
        start = time.perf_counter()
        data = ClipDataModule(work / "made_up", 96, workers, max_gap=1, window=window)
        state = data.state_dict() | {"steps": RESUME_STEP}
        data.load_state_dict(state)
        assert len(next(iter(data.train_dataloader()))["key"]) == 96
        return time.perf_counter() - start

    cases = {"plain": (None, 0), "worker": (None, 1), "window": (100_000, 0)}
    seconds = {name: first_batch(*case) for name, case in cases.items()}
    return {"samples": num_samples, "first_batch_s": seconds, "worst_s": max(seconds.values())}


ALLOCATED = ("RssAnon", "RssShmem")


def resident_bytes(pid: int) -> int:
    """Memory that a process has to itself or shares, less the files it maps."""
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in fields if line.startswith(ALLOCATED))


def memory(work: Path, quick: bool) -> dict:
    write_tokens(work / "memory" / "train", 2000, 8, 20)  # 100 shards, more than are kept open
    data = ClipDataModule(work / "memory", 4, 1, max_gap=1)
    loader = iter(data.train_dataloader())
    pids = {"loader": os.getpid(), "worker": loader._workers[0].pid}
    seen: dict[str, list[tuple[int, int]]] = {name: [] for name in pids}
    for batch in range(BATCHES):
        next(loader)
        if batch >= BATCHES // 5 and batch % 100 == 0:  # after a fifth, all caches are full
            for name, pid in pids.items():
                seen[name].append((batch, resident_bytes(pid)))
    slopes = {
        name: float(np.polyfit(*zip(*each, strict=True), 1)[0]) for name, each in seen.items()
    }
    return {"batches": BATCHES, "bytes_per_batch": slopes}


def scenes(work: Path, quick: bool) -> dict:
    """Per stage, on one thread: pairs of the generator over pairs that training steps take."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", ["experiment=lras_nano", "paths.output_root=."])
    stages = instantiate(cfg.data.stages, _convert_="object")
    predictor = instantiate(cfg.model.predictor, _convert_="object")
    quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    module = PredictorModule(predictor, quantizer)
    optimizer = instantiate(cfg.optimizer)(module.predictor)
    rounds, rows = (3 if quick else 8), []

    def step(frames, share: float, number: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            module.nats(frames, number, share).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    for stage in stages if not quick else (stages[0], stages[-1]):
        source = iter(CurriculumScenes([replace(stage, steps=rounds + 1)], textures=60))
        frames = next(source)["frames"]
        step(frames, stage.frame1_share, 0)
        drawn, trained = [], []
        for number in range(rounds):
            start = time.perf_counter()
            frames = next(source)["frames"]
            middle = time.perf_counter()
            step(frames, stage.frame1_share, number)
            drawn.append(middle - start)
            trained.append(time.perf_counter() - middle)
        ratios = [step_s / scene_s for step_s, scene_s in zip(trained, drawn, strict=True)]
        rows.append(
            {
                "size_px": stage.scene.size,
                "generator_pairs_per_s": stage.batch / statistics.median(drawn),
                "step_pairs_per_s": stage.batch / statistics.median(trained),
                "ratio": statistics.median(ratios),
            }
        )
    return {"stages": rows, "worst_ratio": min(row["ratio"] for row in rows)}


PARTS = {"tokens": tokens, "resume": resume, "memory": memory, "scenes": scenes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sets, fewer rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name in given.only:
        with tempfile.TemporaryDirectory() as work:
            figures[name] = PARTS[name](Path(work), given.quick)
        print(name, json.dumps(figures[name], indent=1), flush=True)
    if given.json:
        command = "python benchmarks/data_loader.py" + (" --quick" if given.quick else "")
        write_result(given.json.name, figures, command, [0], folder=given.json.parent)


if __name__ == "__main__":
    main()
