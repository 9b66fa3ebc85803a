"""A bare PyTorch training loop of the same model, and ours step by step beside it."""

import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, IterableDataset

from doors.meters import Meters, SparingProgressBar
from lras.config import PredictorConfig, QuantizerConfig
from lras.grid import PatchGrid
from lras.optim import muon
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer


class BareLoop:
    """What anybody would write: encode, draw orders, forward, backward, clip, update, rate."""

    def __init__(self, predictor: FramePredictor, quantizer: Quantizer, share: float) -> None:
        self.predictor, self.quantizer, self.share = predictor, quantizer, share
        self.optimizer = muon(predictor)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = list(predictor.parameters())
        self.steps = 0

    def step(self, frames: Tensor) -> float:
        """One optimizer step; its seconds."""
        start = time.perf_counter()
        cfg = self.predictor.cfg
        grid = PatchGrid(*frames.shape[-2:], cfg.patch_px, cfg.code_px)
        frame0, frame1 = (frames.float() / 255).unbind(1)
        codes0 = grid.to_patches(self.quantizer.encode(frame0))
        codes1 = grid.to_patches(self.quantizer.encode(frame1))
        order0, order1 = torch.rand(2, len(frames), grid.num_patches).argsort(-1)
        kept = max(1, round(self.share * grid.num_patches))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, (self.steps + 1) / 30)
        with torch.autocast(frames.device.type, torch.bfloat16):
            loss = self.predictor(codes0, codes1, order0, order1[:, :kept], grid).mean()
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.steps += 1
        return time.perf_counter() - start


class Given(IterableDataset):
    """The same batch again and again: what is compared is the step, not the data."""

    def __init__(self, batch: dict[str, Any], steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.steps):
            yield self.batch


class Beside(L.Callback):
    """After every step of ours one of the bare loop; seconds of both, warm-up included.

    Ours reaches from the end of this hook to its next call: loading, all that Lightning does, and
    the other callbacks, which stand before this one.
    """

    def __init__(self, bare: BareLoop, frames: Tensor) -> None:
        self.bare, self.frames = bare, frames
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        if self.theirs:
            self.ours.append(time.perf_counter() - self.since)
        self.theirs.append(self.bare.step(self.frames))
        self.since = time.perf_counter()


def beside_bare(
    side: int, pairs: int, share: float, steps: int, folder: str
) -> tuple[list[float], list[float]]:
    """Seconds of our steps and of the bare loop's, pair by pair, three of warm-up left out."""
    torch.manual_seed(0)
    quantizer = Quantizer(QuantizerConfig())
    predictor = FramePredictor(PredictorConfig())
    frames = torch.randint(256, (pairs, 2, 3, side, side), dtype=torch.uint8)
    bare = BareLoop(deepcopy(predictor), quantizer, share)
    batch = {"frames": frames, "frame1_share": share}
    beside = Beside(bare, frames)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps + 4,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        logger=CSVLogger(folder),
        callbacks=[Meters(), SparingProgressBar(), beside],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = PredictorModule(predictor, quantizer, muon)
    trainer.fit(module, DataLoader(Given(batch, steps + 4), batch_size=None))
    return beside.ours[3:], beside.theirs[4:]
