"""Token shards whose samples tell their own number, and a module that notes what it is fed."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer

from data.index import ShardWriter

FINGERPRINT = "f00dcafe"


def token_codes(clip: int, clip_frames: int, rows: int, cols: int) -> np.ndarray:
    """uint16 (time, rows, cols): clip * 100 + t in the first cell, noise in the others."""
    codes = np.random.default_rng(clip).integers(0, 2**16, (clip_frames, rows, cols))
    codes[:, 0, 0] = clip * 100 + np.arange(clip_frames)
    return codes.astype(np.uint16)


def write_token_shards(
    folder: Path,
    num_clips: int,
    shard_clips: int = 4,
    clip_frames: int = 4,
    side: int = 2,  # cells
    fps: tuple[float, ...] = (30.0,),  # of the clips in turn
    fingerprint: str = FINGERPRINT,
) -> Path:
    """Tokenized clips clip0000, clip0001, ... of ``token_codes``; a cell is 4 px."""
    writer = ShardWriter(
        folder,
        shard_clips,
        side * 4,
        clip_frames,
        kind="tokens",
        fingerprint=fingerprint,
    )
    for clip in range(num_clips):
        file = BytesIO()
        np.save(file, token_codes(clip, clip_frames, side, side))
        about = {
            "source": f"video{clip // 3}",
            "fps": fps[clip % len(fps)],
            "num_frames": clip_frames,
            "fingerprint": fingerprint,
        }
        sample = {"json": json.dumps(about).encode(), "codes.npy": file.getvalue()}
        writer.write({"__key__": f"clip{clip:04d}"} | sample)
    writer.finish()
    return folder


class Collector(LightningModule):
    """Keeps what it is fed; one weight, so that there is something to optimize."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[dict] = []
        self.val_keys: list[str] = []

    def training_step(self, batch: dict, batch_index: int) -> torch.Tensor:
        self.batches.append(batch)
        return self.weight * batch["gap"].float().mean()

    def validation_step(self, batch: dict, batch_index: int) -> None:
        counts = zip(batch["key"], batch["weight"], strict=True)
        self.val_keys += [key for key, weight in counts if weight]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet_trainer(folder: Path, **options) -> Trainer:
    """On the CPU, with no logger, checkpoint, bar or summary."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "devices": 1}
    return Trainer(accelerator="cpu", default_root_dir=folder, **(quiet | options))


def drawn(batch: dict) -> list[tuple]:
    """A batch as plain values: key, gap and every pixel or code of each row."""
    values = batch["codes" if "codes" in batch else "frames"].flatten(1)
    return list(zip(batch["key"], batch["gap"].tolist(), map(tuple, values.tolist()), strict=True))
