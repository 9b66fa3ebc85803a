"""PredictorModule: next-frame pretraining in plain Lightning."""

from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lras.checkpoint import describe
from lras.flops import group_tokens
from lras.grid import PatchGrid
from lras.held_out import HeldOut, counted, held_out_orders
from lras.loss import LossConfig
from lras.next_frame import NextFrame
from lras.optim import Schedule, Shape, muon
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from lras.running import Running, block_runner
from lras.sequence import patches_within, random_orders

TRAINING = 2  # salt: no two random streams of one seed are the same


class PredictorModule(L.LightningModule):
    """Nats per code of frame 1, patches in a fresh random order for every sample.

    Batches: ``frames`` uint8 (batch, 2, 3, height, width), frame 0 and frame 1, or ``codes`` int64
    (batch, 2, rows, cols), those of the frames by this very quantizer, and optionally
    ``frame1_share``: the share of frame 1's patches that a sequence holds; validation also reads
    ``gap``, ``key`` and, where there is one, ``weight`` (0 = only fills up the batch), and logs
    what ``lras.held_out`` computes. The quantizer is frozen and lives in the same checkpoint.
    Orders are a pure function of (seed, step) and of a sample's place among those of all ranks, so
    a resumed run draws what an undisturbed one would have drawn, and N ranks (or one rank that
    accumulates N batches) what one rank would. ``tokens`` limits the length of a training sequence
    (``lras.sequence.patches_within``); ``compile`` and ``recompute``: ``lras.running.Running``.
    """

    def __init__(
        self,
        predictor: FramePredictor,
        quantizer: Quantizer,
        optimizer: Callable[[nn.Module], Optimizer] = muon,
        warmup_steps: int = 30,
        decay_share: float = 0.4,
        seed: int = 0,
        compile: Literal["block", "whole"] | bool = False,
        recompute: Literal["none", "block", "selective"] = "none",
        shape: Shape = "stable",
        decay_start: int | None = None,
        loss: LossConfig | None = None,
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        # NextFrame checks that the two fit; its parts are registered here once.
        NextFrame(quantizer, predictor)
        self.predictor, self.quantizer = predictor, quantizer.requires_grad_(False)
        if predictor.pixel_embed is not None:  # painting every code takes LPQ minutes
            predictor.set_code_pixels(quantizer.code_pixels())
        self.held_out = HeldOut(predictor.cfg.num_codes, predictor.cfg.codes_per_patch)
        self.make_optimizer = optimizer
        self.schedule = Schedule(
            warmup_steps=warmup_steps, decay_share=decay_share, shape=shape, decay_start=decay_start
        )
        self.seed, self.tokens = seed, tokens
        self.predictor.loss = loss or LossConfig()
        running = Running(compile=compile, recompute=recompute)
        self.predictor.run_block = block_runner(running)
        if running.compile == "whole":
            self.predictor.compile(dynamic=False)

    def next_frame(self) -> NextFrame:
        """The model as ``tracing`` sees it, sharing this module's weights."""
        return NextFrame(self.quantizer, self.predictor)

    def whole_next_frame(self) -> NextFrame:
        """A copy with whole weights on every rank, gathered where they are sharded.

        All ranks must call it together; each then holds one more set of weights.
        """
        options = StateDictOptions(full_state_dict=True)
        weights = get_model_state_dict(self.predictor, options=options)
        with torch.device("meta"):  # draws nothing from the global random state
            whole = FramePredictor(self.predictor.cfg)
        whole.load_state_dict(weights, assign=True)
        return NextFrame(self.quantizer, whole.requires_grad_(False)).eval()

    def setup(self, stage: str) -> None:
        """Data of codes must come from this quantizer: a data module that asks is told which."""
        data = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "expect_fingerprint"):
            data.expect_fingerprint = self.quantizer.fingerprint()

    def codes(self, frames: Tensor) -> tuple[PatchGrid, Tensor, Tensor]:
        """The grid of these frames, and their codes, (batch, patches, codes) of frames 0 and 1.

        Codes in place of frames are only regrouped by patch.
        """
        cfg = self.predictor.cfg
        if frames.dtype != torch.uint8:
            height, width = (side * cfg.code_px for side in frames.shape[-2:])
            grid = PatchGrid(height, width, cfg.patch_px, cfg.code_px)
            return grid, *(grid.to_patches(cells) for cells in frames.unbind(1))
        grid = PatchGrid(*frames.shape[-2:], cfg.patch_px, cfg.code_px)
        frame0, frame1 = (frames.float() / 255).unbind(1)
        codes0, codes1 = (grid.to_patches(self.quantizer.encode(f)) for f in (frame0, frame1))
        return grid, codes0, codes1

    def nats(self, frames: Tensor, seed: int, frame1_share: float = 1.0, part: int = 0) -> Tensor:
        """Nats of the contents of frame 1, (batch, kept, codes) in sequence order.

        ``part``: of the batches that one optimizer step accumulates, which one.
        """
        grid, codes0, codes1 = self.codes(frames)
        order0, order1 = self._orders(len(frames), grid.num_patches, seed, part)
        placed, kept = self._patches(grid.num_patches, frame1_share)
        return self.predictor(codes0, codes1, order0[:, :placed], order1[:, :kept], grid)

    def sizes_of(self, batch: dict[str, Any]) -> tuple[int, int, int]:
        """Pairs, and patches of frames 0 and 1 in a training sequence, of this batch."""
        cfg, frames = self.predictor.cfg, frames_or_codes(batch)
        side = cfg.patch_px if "frames" in batch else cfg.patch_px // cfg.code_px
        patches = (frames.shape[-2] // side) * (frames.shape[-1] // side)
        return len(frames), *self._patches(patches, batch.get("frame1_share", 1.0))

    def _patches(self, num_patches: int, frame1_share: float) -> tuple[int, int]:
        groups = group_tokens(self.predictor.cfg, 0), group_tokens(self.predictor.cfg, 1)
        return patches_within(self.tokens, num_patches, frame1_share, groups)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        part = batch_index % self.trainer.accumulate_grad_batches
        seed = self._order_seed(TRAINING, self.global_step)
        nats = self.nats(frames_or_codes(batch), seed, batch.get("frame1_share", 1.0), part)
        loss = nats.mean()
        shown = nats.detach().mean(dim=(0, 1)) if self._logs_this_step() else loss.detach()[None]
        # Every rank's samples, or rank 0 would speak for its own alone; but sync_dist would have
        # the ranks wait for one another at every step, logged or not.
        if self._logs_this_step():
            shown = self.trainer.strategy.reduce(shown, reduce_op="mean")
            if len(shown) > 1:
                slots = {f"train/nats_slot_{slot}": each for slot, each in enumerate(shown)}
                self.log_dict(slots)
        self.log("train/nats_per_code", shown.mean(), prog_bar=True)
        return loss

    def _logs_this_step(self) -> bool:
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0

    def on_validation_epoch_start(self) -> None:
        self.held_out.reset()

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Nats of every patch of frame 1, each sample in an order of its own that never changes."""
        grid, codes0, codes1 = self.codes(frames_or_codes(batch))
        order0, order1 = held_out_orders(batch["key"], grid.num_patches, self.seed)
        nats = self.predictor(codes0, codes1, order0.to(codes0), order1.to(codes1), grid)
        gap, codes0, codes1, nats = (
            counted(batch, rows) for rows in (batch["gap"], codes0, codes1, nats)
        )
        self.held_out.update(nats, gap, codes0, codes1)
        codes = grid.to_cells(torch.cat([codes0, codes1]))
        if "frames" not in batch:  # nothing to hold decoded codes against
            self.held_out.quantizer.use.update(codes)
            return
        frames = counted(batch, batch["frames"])
        with torch.autocast(codes.device.type, enabled=False):
            decoded = self.quantizer.decode(codes)
        self.held_out.quantizer.update(torch.cat(frames.unbind(1)).float() / 255, decoded, codes)

    def on_validation_epoch_end(self) -> None:
        values = {f"val/{name}": value for name, value in self.held_out.compute().items()}
        main = {"val/nats_per_code": values.pop("val/nats_per_code")}
        # Every rank holds the same values by now; sync_dist only tells Lightning so.
        self.log_dict(main, prog_bar=True, sync_dist=True)
        self.log_dict(values, sync_dist=True)

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end
    test_step = validation_step

    def _orders(self, batch: int, patches: int, seed: int, part: int = 0) -> tuple[Tensor, Tensor]:
        """Orders of both frames, drawn for all samples of a step; this batch's rows of them.

        A rank's batches of one step are consecutive, as its streams are (data/curriculum.py).
        """
        rank, world, parts = 0, 1, 1
        if self._trainer:
            rank, world = self.global_rank, self.trainer.world_size
            parts = self.trainer.accumulate_grad_batches
        generator = torch.Generator().manual_seed(seed)
        both = [random_orders(batch * world * parts, patches, generator) for _ in range(2)]
        first = (rank * parts + part) * batch
        own = [orders[first : first + batch] for orders in both]
        if self.device.type == "cuda":  # or the copy would wait for all that is queued
            own = [orders.pin_memory() for orders in own]
        order0, order1 = (orders.to(self.device, non_blocking=True) for orders in own)
        return order0, order1

    def _order_seed(self, purpose: int, step: int) -> int:
        return hash((purpose, self.seed, step, 0)) % 2**63

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make_optimizer(self.predictor)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: self.schedule.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lras"] = describe(self)


def frames_or_codes(batch: dict[str, Any]) -> Tensor:
    """What a batch holds: ``frames`` uint8, or ``codes`` of another integer type."""
    return batch["frames"] if "frames" in batch else batch["codes"]
