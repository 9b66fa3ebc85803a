"""The job of ``data.tokenize``: task t turns the t-th clip shard into a token shard."""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset as wds
from einops import rearrange
from jaxtyping import UInt8, UInt16
from torch import Tensor

from data.encoders import Encoder, load_encoder
from data.engines import WORKER
from data.index import ShardWriter, merge_index, read_index
from data.shard_index import ShardIndex
from data.tasks import SPLITS, Progress
from data.video import printable

_loaded: dict[str, Encoder] = {}  # of this process: one encoder serves all its tasks


@dataclass(frozen=True)
class TokenizeJob:
    """``shards``: (split, number in that split's index) of every task; see ``data.tasks.Job``."""

    settings: dict[str, Any]
    out: Path
    clips: Path
    shards: tuple[tuple[str, int], ...]
    inputs: tuple[str, ...]
    encoder: Any
    device: str = "cpu"
    name: str = "tokenize"

    @property
    def num_tasks(self) -> int:
        return len(self.shards)

    def run(self, task: int, progress: Progress) -> dict[str, Any]:
        """Encode one shard.

        Raises:
            ValueError: it is not as its index says, or the encoder is not the job's.
        """
        progress.begin(task)
        split, number = self.shards[task]
        index = read_index(self.clips / split, check_shards=False)
        shard, encoder = index.shards[number], self._encoder()
        writer = ShardWriter(
            self.out / split,
            shard.samples,
            index.size,
            index.clip_frames,
            self.settings,
            prefix=f"tokens-{task:06d}",
            kind="tokens",
            fps=index.fps,
            fingerprint=self.settings["fingerprint"],
        )
        path = self.clips / split / shard.name
        with closing(writer), one_thread():
            for samples in _batches(
                clip_samples(path, index, number), self.settings["batch_clips"]
            ):
                frames = torch.cat([decode_clip(path, index, sample) for sample in samples])
                codes = encoder.encode(frames.float() / 255).to(torch.int32).numpy()
                codes = rearrange(codes, "(b t) r c -> b t r c", b=len(samples))
                for sample, of_clip in zip(samples, codes, strict=True):
                    writer.write(self._token_sample(sample, of_clip.astype(np.uint16)))
                progress.add(clips=len(samples), frames=len(frames))
            written = writer.finish(index=False)
        progress.add(inputs=1)
        names = [shard.name for shard in writer.shards]
        return {"clips": {split: written}, "shards": {split: names}}

    def finish(self, markers: list[dict[str, Any]]) -> dict[str, Any]:
        """Index the shards of all tasks."""
        clips = {}
        for split in SPLITS:
            names = [name for marker in markers for name in marker["shards"].get(split, ())]
            if names:
                merge_index(self.out / split, names)
                clips[split] = sum(marker["clips"].get(split, 0) for marker in markers)
        return {"clips": clips}

    def _token_sample(self, sample: dict, codes: UInt16[np.ndarray, "time rows cols"]) -> dict:
        about = json.loads(sample["json"]) | {"fingerprint": self.settings["fingerprint"]}
        file = io.BytesIO()
        np.save(file, codes, allow_pickle=False)
        return {
            "__key__": sample["__key__"],
            "json": json.dumps(about).encode(),
            "codes.npy": file.getvalue(),
        }

    def _encoder(self) -> Encoder:
        device = self.device
        if device == "cuda":
            device = f"cuda:{int(os.environ.get(WORKER, 0)) % torch.cuda.device_count()}"
        name = f"{self.encoder}/{device}"
        if name not in _loaded:
            _loaded.clear()
            _loaded[name] = load_encoder(self.encoder, device)
        encoder, expected = _loaded[name], self.settings["fingerprint"]
        if encoder.fingerprint() != expected:
            _loaded.clear()
            raise ValueError(
                f"encoder={self.encoder} has fingerprint {encoder.fingerprint()}, expected "
                f"{expected}, with which these shards were begun; put that encoder back."
            )
        return encoder


def clip_samples(path: Path, index: ShardIndex, number: int) -> Iterator[dict]:
    """The samples of a shard, after a look whether it is the one that was written."""
    expected = index.shards[number].sha256
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise ValueError(
            f"{printable(path)} has sha256 {digest[:12]}, its index says {expected[:12]}; copy or "
            f"ingest it again."
        )
    return wds.tarfile_samples([{"url": str(path)}])


def decode_clip(
    path: Path, index: ShardIndex, sample: dict
) -> UInt8[Tensor, "time 3 height width"]:
    """All frames of one encoded clip."""
    frames = []
    for t in range(index.clip_frames):
        encoded = sample.get(f"{t:03d}.jpg", sample.get(f"{t:03d}.png", b""))
        pixels = None
        if encoded:
            pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is None or pixels.shape != (index.size, index.size, 3):
            raise ValueError(
                f"{printable(path)}, {sample['__key__']}: frame {t} is no image of "
                f"{index.size}x{index.size} px; ingest again."
            )
        frames.append(torch.from_numpy(pixels))
    return rearrange(torch.stack(frames), "t h w c -> t c h w")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """So that sums are taken in one order, however many workers there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(samples: Iterator[dict], count: int) -> Iterator[list[dict]]:
    batch = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch
