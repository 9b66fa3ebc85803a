"""QuantizerModule: trains the local quantizer on single frames."""

from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from lras.checkpoint import describe
from lras.held_out import QuantizerQuality, counted
from lras.optim import can_fuse, clippable
from lras.perceptual import check_size
from lras.quantizer import Quantizer


class QuantizerModule(L.LightningModule):
    """Reconstruction plus the bottleneck's penalty; k-means codebooks are started first.

    Batches: ``frames`` uint8 (batch, time, 3, height, width), as for the predictor. With ``lpips``
    validation also says the perceptual distance (``lras.perceptual``).
    """

    def __init__(
        self, quantizer: Quantizer, lr: float = 1e-3, seed: int = 0, lpips: bool = False
    ) -> None:
        super().__init__()
        self.quantizer, self.lr, self.seed = quantizer, lr, seed
        self.held_out = QuantizerQuality(quantizer.cfg.num_codes, quantizer.num_levels, lpips)

    def on_fit_start(self) -> None:
        """Frames too small for LPIPS are refused before anything is trained."""
        data = getattr(self.trainer, "datamodule", None)
        if self.held_out.lpips is not None and data is not None:
            check_size(single_frames(next(iter(data.val_dataloader()))["frames"]))

    def on_train_start(self) -> None:
        """Start k-means codebooks on the first batches, unless a checkpoint brought them."""
        bottleneck = self.quantizer.bottleneck
        if not hasattr(bottleneck, "initialized") or bottleneck.initialized:
            return
        frames, cells = [], 0
        for batch in self.trainer.train_dataloader:
            frames.append(single_frames(batch["frames"]).to(self.device))
            cells += frames[-1][:, 0].numel() // self.quantizer.cfg.code_px**2
            if cells > 100 * self.quantizer.cfg.num_codes:
                break
        generator = torch.Generator().manual_seed(self.seed)
        side = min(f.shape[-1] for f in frames)  # curriculum stages differ in size
        self.quantizer.initialize(torch.cat([f[..., :side, :side] for f in frames]), generator)
        if dist.is_available() and dist.is_initialized():
            for value in (*bottleneck.parameters(), *bottleneck.buffers()):
                dist.broadcast(value.data, src=0)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        error, penalty, codes = self.quantizer(single_frames(batch["frames"]))
        self.log("quantizer/psnr_db", psnr_db(error), prog_bar=True)
        self.log("quantizer/codes_used", used_share(codes, self.quantizer.cfg.num_codes))
        return error + 0.25 * penalty

    def on_validation_epoch_start(self) -> None:
        self.held_out.reset()

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        frames = single_frames(counted(batch, batch["frames"]))
        codes = self.quantizer.encode(frames)
        levels = range(1, self.quantizer.num_levels)
        coarse = [self.quantizer.decode_first(codes, count) for count in levels]
        self.held_out.update(frames, self.quantizer.decode(codes), codes, coarse)

    def on_validation_epoch_end(self) -> None:
        values = {f"quantizer/val_{k}": value for k, value in self.held_out.compute().items()}
        # Every rank holds the same values by now; sync_dist only tells Lightning so.
        self.log_dict(values, prog_bar=True, sync_dist=True)

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end
    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = can_fuse(self.quantizer)
        return clippable(torch.optim.Adam(self.quantizer.parameters(), lr=self.lr, fused=fused))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lras"] = describe(self.quantizer)


def single_frames(frames: Tensor) -> Tensor:
    """(batch, time, 3, height, width) uint8 to float frames (batch * time, 3, height, width)."""
    return frames.flatten(0, 1).float() / 255


def psnr_db(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of a mean squared error of images in [0, 1]."""
    return -10 * error.detach().clamp_min(1e-10).log10()


def used_share(codes: Tensor, num_codes: int) -> Tensor:
    """Share of the codebook that occurs.

    subtle: torch.bincount would ask the device for the largest code, and wait for it.
    """
    used = torch.zeros(num_codes, device=codes.device)
    return used.index_fill_(0, codes.flatten(), 1.0).mean()
