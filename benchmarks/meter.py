"""A model that counts what it is asked to do: tokens through the blocks, and their FLOPs."""

from typing import Any

from torch import Tensor

from lras.flops import (
    extend_flops,
    group_tokens,
    head_flops,
    prediction_flops,
    prediction_tokens,
    read_flops,
)
from lras.next_frame import NextFrame


class Meter:
    """Answers as the model does (satisfies tracing.protocol); ``tokens`` and ``flops`` since reset.

    Counted from the shapes of what is asked, row by row, so padding counts as the work it is. What
    the quantizer does is left out.
    """

    def __init__(self, model: NextFrame) -> None:
        self.model, self.cfg = model, model.predictor.cfg
        self.patch_px, self.code_px, self.forks = model.patch_px, model.code_px, model.forks
        self.num_columns, self.token_bytes = model.num_columns, model.token_bytes
        self.tokens = self.flops = 0

    def reset(self) -> None:
        self.tokens = self.flops = 0

    def encode(self, frames: Tensor) -> Tensor:
        return self.model.encode(frames)

    def expected_rgb(self, logits: Tensor) -> Tensor:
        return self.model.expected_rgb(logits)

    def frame1_logits(
        self,
        codes0: Tensor,
        codes1: Tensor,
        reveal: Tensor,
        order0: Tensor,
        order1: Tensor,
        read_out: str,
    ) -> Tensor:
        (rows, patches), shown = reveal.shape, int(reveal[0].sum())
        sizes = patches, shown, self._read(read_out)
        self.tokens += rows * prediction_tokens(self.cfg, *sizes)
        self.flops += rows * prediction_flops(self.cfg, *sizes)
        return self.model.frame1_logits(codes0, codes1, reveal, order0, order1, read_out)

    def extend(self, given: Any | None, codes: Tensor, patches: Tensor, frame: int) -> Any:
        rows, count = patches.shape
        new, before = count * group_tokens(self.cfg, frame), given.length if given else 0
        self.tokens += rows * new
        self.flops += rows * extend_flops(self.cfg, new, before)
        return self.model.extend(given, codes, patches, frame)

    def read(self, given: Any, codes1: Tensor, asked: Tensor, read_out: str) -> Tensor:
        (rows, count), group = asked.shape, self._read(read_out)
        heads = head_flops(self.cfg, count * group, self.num_columns)
        self.tokens += rows * count * group
        self.flops += rows * (read_flops(self.cfg, count, group, given.length) + heads)
        return self.model.read(given, codes1, asked, read_out)

    def _read(self, read_out: str) -> int:
        return 1 if read_out == "first" else self.cfg.codes_per_patch
