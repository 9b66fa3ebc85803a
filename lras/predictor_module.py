"""PredictorModule: next-frame pretraining in plain Lightning."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lras.checkpoint import describe
from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from lras.optim import muon, warmup_stable_decay
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from lras.sequence import random_orders

TRAINING, VALIDATION = 2, 3  # salts: no two random streams of one seed are the same


class PredictorModule(L.LightningModule):
    """Nats per code of frame 1, patches in a fresh random order for every sample.

    Batches: ``frames`` uint8 (batch, 2, 3, height, width), frame 0 and frame 1, and optionally
    ``frame1_share``: the share of frame 1's patches that a sequence holds. The quantizer is
    frozen and lives in the same checkpoint. Orders are a pure function of (seed, step, rank), so a
    resumed run draws what an undisturbed one would have drawn.
    """

    def __init__(
        self,
        predictor: FramePredictor,
        quantizer: Quantizer,
        optimizer: Callable[[nn.Module], Optimizer] = muon,
        warmup_steps: int = 30,
        decay_share: float = 0.4,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        # NextFrame checks that the two fit; its parts are registered here once.
        NextFrame(quantizer, predictor)
        self.predictor, self.quantizer = predictor, quantizer.requires_grad_(False)
        self.predictor.set_code_pixels(quantizer.code_pixels())
        self.make_optimizer = optimizer
        self.warmup_steps, self.decay_share, self.seed = warmup_steps, decay_share, seed
        if compile:
            self.predictor.compile(dynamic=False)

    def next_frame(self) -> NextFrame:
        """The model as ``tracing`` sees it, sharing this module's weights."""
        return NextFrame(self.quantizer, self.predictor)

    def nats(self, frames: Tensor, seed: int, frame1_share: float = 1.0) -> Tensor:
        """Nats of the contents of frame 1, (batch, kept, codes) in sequence order."""
        cfg = self.predictor.cfg
        grid = PatchGrid(*frames.shape[-2:], cfg.patch_px, cfg.code_px)
        frame0, frame1 = (frames.float() / 255).unbind(1)
        codes0, codes1 = (grid.to_patches(self.quantizer.encode(f)) for f in (frame0, frame1))
        generator = torch.Generator().manual_seed(seed)
        order0, order1 = (
            random_orders(len(frames), grid.num_patches, generator).to(frames.device)
            for _ in range(2)
        )
        kept = max(1, round(frame1_share * grid.num_patches))
        return self.predictor(codes0, codes1, order0, order1[:, :kept], grid)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        seed, share = self._order_seed(TRAINING, self.global_step), batch.get("frame1_share", 1.0)
        nats = self.nats(batch["frames"], seed, share)
        loss = nats.mean()
        self.log("train/nats_per_code", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        nats = self.nats(batch["frames"], self._order_seed(VALIDATION, batch_index))
        size = len(nats)
        self.log("val/nats_per_code", nats.mean(), prog_bar=True, sync_dist=True, batch_size=size)
        # By how much of frame 1 was already given: the first and the last quarter of the patches.
        quarter = max(1, nats.shape[1] // 4)
        early, late = nats[:, :quarter].mean(), nats[:, -quarter:].mean()
        self.log("val/nats_per_code_first_quarter", early, sync_dist=True, batch_size=size)
        self.log("val/nats_per_code_last_quarter", late, sync_dist=True, batch_size=size)

    test_step = validation_step

    def _order_seed(self, stream: int, step: int) -> int:
        return hash((stream, self.seed, step, self.global_rank)) % 2**63

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make_optimizer(self.predictor)
        total = int(self.trainer.estimated_stepping_batches)
        decay_start = int(total * (1 - self.decay_share))

        def factor(step: int) -> float:
            return warmup_stable_decay(step, self.warmup_steps, decay_start, total)

        schedule = LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lras"] = describe(self)
