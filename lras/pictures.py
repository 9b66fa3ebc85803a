"""PredictionPictures: what the model in training thinks frame 1 looks like.

A few held-out pairs, the same ones, with the same revealed patches and the same dice every time, so
that a slider over the steps shows the model and not luck. Nothing is drawn from global random
state and the module is left as it was found: a run with pictures trains the same weights.
"""

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.distributed.tensor import DTensor

from lras.decode import roll_out
from lras.grid import PatchGrid
from lras.held_out import held_out_orders
from lras.next_frame import NextFrame

log = logging.getLogger(__name__)

KEY = "predictions/frame1"
GAP_PX, MIN_SIDE_PX = 4, 128  # white between the panels; smaller frames are enlarged
DICE = 5  # salts the draws


class PredictionPictures(L.Callback):
    """One strip a pair: frame 0, revealed patches of frame 1, drawn frames 1, true frame 1.

    Logged as ``predictions/frame1`` to every logger with a ``log_image``, at the end of validation
    and, unless ``every_n_steps`` is None, at step 0 and every so many steps.
    """

    def __init__(
        self,
        num_pairs: int = 4,
        num_draws: int = 2,
        every_n_steps: int | None = None,
        revealed_share: float = 0.1,  # of the patches of frame 1
        rounds: int = 8,  # see lras.decode.roll_out; fewer where fewer patches are hidden
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"num_pairs": num_pairs, "num_draws": num_draws, "rounds": rounds}
        counts |= {"every_n_steps": 1 if every_n_steps is None else every_n_steps}
        wrong = {name: count for name, count in counts.items() if count < 1}
        if wrong or not 0 <= revealed_share < 1:
            wrong = wrong or {"revealed_share": revealed_share}
            raise ValueError(
                f"pictures got {wrong}; counts must be 1 or more, revealed_share in [0, 1): set "
                f"callbacks.pictures.{next(iter(wrong))}."
            )
        self.num_pairs, self.num_draws, self.every_n_steps = num_pairs, num_draws, every_n_steps
        self.revealed_share, self.rounds = revealed_share, rounds
        self.temperature, self.top_k, self.seed = temperature, top_k, seed
        self.frames: UInt8[Tensor, "pairs 2 3 height width"] | None = None
        self.keys: list[str] = []
        self._last_step: int | None = None
        self._validated = False

    # --- when -------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.every_n_steps and trainer.global_step == 0:
            self.show(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        step = trainer.global_step
        if self.every_n_steps and (step % self.every_n_steps == 0 or step == trainer.max_steps):
            self.show(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: dict,
        *_: object,
    ) -> None:
        if self.frames is None and trainer.datamodule is None:
            self._remember([batch])  # loaders handed to fit are met here first

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = True
            self.show(trainer, pl_module)

    # --- what -------------------------------------------------------------------------------

    def show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the fixed pairs with the weights of the moment and log the strips, once a step."""
        step, listening = trainer.global_step, [x for x in trainer.loggers if can_show(x)]
        is_early = trainer.datamodule is None and not self._validated  # no held-out pair was met
        if step == self._last_step or not listening or is_early:
            return
        self._last_step = step
        sharded = any(isinstance(weight, DTensor) for weight in pl_module.parameters())
        # subtle: shards are gathered by all ranks together, so before rank 0 goes on alone.
        model = pl_module.whole_next_frame() if sharded else pl_module.next_frame()
        if not trainer.is_global_zero:
            return
        try:
            if not self._has_pairs(trainer):
                return
            with left_as_found(pl_module):
                strips = self.strips(in_float32(model), self.frames.to(pl_module.device))
        except (RuntimeError, ValueError) as error:  # a picture is no reason to end a training
            log.warning("no predictions are pictured at step %d: %s", step, error)
            return
        captions = [f"{key}, step {step}: {self._legend()}" for key in self.keys]
        for logger in listening:
            logger.log_image(key=KEY, images=strips, step=step, caption=captions)

    def strips(
        self, model: NextFrame, frames: UInt8[Tensor, "pairs 2 3 height width"]
    ) -> list[np.ndarray]:
        """One uint8 (H, W, 3) picture a pair: what was given, what was drawn, what was true."""
        frame0, frame1 = (frames.float() / 255).unbind(1)
        codes0, codes1 = model.encode(frame0), model.encode(frame1)
        grid = PatchGrid(*frames.shape[-2:], model.patch_px, model.code_px)
        order0, order1 = held_out_orders(self.keys, grid.num_patches, self.seed)
        revealed = round(self.revealed_share * grid.num_patches)
        reveal = torch.zeros_like(order1, dtype=torch.bool).scatter(1, order1[:, :revealed], True)
        given = [part.to(codes0.device) for part in (reveal, order0, order1)]
        rounds = min(self.rounds, grid.num_patches - revealed)
        dice = torch.Generator().manual_seed(hash((DICE, self.seed)) % 2**63)
        drawn = [
            roll_out(model, codes0, codes1, *given, rounds, self.temperature, dice, self.top_k)
            for _ in range(self.num_draws)
        ]
        shown = gray_where_hidden(model.decode(codes1), given[0], grid)
        panels = torch.stack([frame0, shown, *map(model.decode, drawn), frame1], dim=1)
        return [strip(row) for row in panels]

    def _legend(self) -> str:
        drawn = "drawn" if self.num_draws == 1 else f"{self.num_draws} draws"
        return f"frame 0 | {self.revealed_share:.0%} of frame 1 | {drawn} | frame 1"

    # --- from where -------------------------------------------------------------------------

    def _has_pairs(self, trainer: L.Trainer) -> bool:
        if self.frames is None and trainer.datamodule is not None:
            with isolate_rng(include_cuda=False):  # a loader draws a seed for its workers
                self._remember(trainer.datamodule.val_dataloader())
        return self.frames is not None

    def _remember(self, batches: Iterable[dict]) -> None:
        """Keep the first pairs, all of the first one's size."""
        pairs: list[tuple[Tensor, str]] = []
        for batch in batches:
            pairs += zip(batch["frames"].cpu(), batch["key"], strict=True)
            pairs = [pair for pair in pairs if pair[0].shape == pairs[0][0].shape]
            if len(pairs) >= self.num_pairs:
                break
        if not pairs:
            log.warning("validation data hold no pair, so no predictions are pictured.")
            return
        frames, self.keys = map(list, zip(*pairs[: self.num_pairs], strict=True))
        self.frames = torch.stack(frames)


def can_show(logger: object) -> bool:
    """Loggers that take pictures have Lightning's ``log_image``."""
    return hasattr(logger, "log_image")


@contextmanager
def left_as_found(module: L.LightningModule) -> Iterator[None]:
    """Evaluation mode, full precision and no gradient inside; every part's mode restored after."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), torch.autocast(module.device.type, enabled=False):
            yield
    finally:
        for part, was_training in training.items():
            part.training = was_training


def in_float32(model: NextFrame) -> NextFrame:
    """The model itself, or a copy where its weights are of low precision."""
    low = any(w.is_floating_point() and w.dtype != torch.float32 for w in model.parameters())
    return copy.deepcopy(model).float() if low else model


def gray_where_hidden(
    frames: Float[Tensor, "batch 3 height width"],
    reveal: Bool[Tensor, "batch patches"],
    grid: PatchGrid,
) -> Float[Tensor, "batch 3 height width"]:
    """The revealed patches on gray."""
    mask = rearrange(reveal, "b (r c) -> b 1 r c", r=grid.rows).to(frames)
    mask = F.interpolate(mask, scale_factor=grid.patch_px)
    return frames * mask + 0.5 * (1 - mask)


def strip(panels: Float[Tensor, "panels 3 height width"]) -> UInt8[np.ndarray, "rows cols 3"]:
    """Frames side by side with white between them; small ones enlarged pixel by pixel."""
    enlarged = max(1, MIN_SIDE_PX // panels.shape[-1])
    panels = F.interpolate(panels, scale_factor=enlarged)
    spaced = F.pad(panels, (0, GAP_PX), value=1.0)
    row = rearrange(spaced, "n c h w -> h (n w) c")[:, :-GAP_PX]
    return (row.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
