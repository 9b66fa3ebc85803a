"""The one whole-pixel translation that explains a frame pair best, given to every point."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from tracing.baselines.zero_motion import all_visible
from tracing.config import Traces


class BestTranslation:
    """Shift of the whole frame with the least mean absolute difference over the overlap.

    Needs only the frames. All whole-pixel shifts up to ``max_shift`` px along each axis are tried
    (None: a quarter of the shorter side); of equally good ones the shortest wins.
    """

    name = "best_translation"
    needs_model = False

    def __init__(self, max_shift: int | None = None) -> None:
        if max_shift is not None and max_shift < 0:
            raise ValueError(f"max_shift={max_shift} px is negative; pass 0 or more, or None.")
        self.max_shift = max_shift

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        side = min(frame0.shape[-2:])
        reach = side // 4 if self.max_shift is None else self.max_shift
        if reach >= side:
            raise ValueError(
                f"max_shift={reach} px leaves no overlap of frames {side} px wide; "
                f"pass at most {side - 1}."
            )
        shift = torch.stack(
            [_best_shift(*pair, reach) for pair in zip(frame0, frame1, strict=True)]
        )
        return all_visible(points + rearrange(shift, "b xy -> b 1 xy").to(points))


def _best_shift(
    frame0: Float[Tensor, "3 height width"], frame1: Float[Tensor, "3 height width"], reach: int
) -> Float[Tensor, "2"]:
    """(dx, dy) for which frame1[y + dy, x + dx] is nearest to frame0[y, x]."""
    height, width = frame0.shape[-2:]
    # shifted[c, y, dx + reach, x] = frame1[c, y, x + dx], 0 outside, where nothing is compared
    shifted = F.pad(frame1, (reach, reach)).unfold(-1, width, 1)
    inside = F.pad(frame1.new_ones(1, width), (reach, reach)).unfold(-1, width, 1)[0].bool()

    costs = []
    for dy in range(-reach, reach + 1):
        first = frame0[:, max(0, -dy) : height - max(0, dy), None]
        second = shifted[:, max(0, dy) : height + min(0, dy)]
        gap = (first - second).abs().masked_fill(~inside, 0).sum((0, 1, 3), dtype=torch.float64)
        costs.append(gap / (inside.sum(-1) * first.shape[0] * first.shape[1]))
    cost = torch.stack(costs)  # (dy, dx)

    span = torch.arange(-reach, reach + 1, device=cost.device)
    length = (span[:, None].square() + span.square()).double()
    best = torch.where(cost == cost.min(), length, torch.inf).flatten().argmin()
    row, col = best // len(span), best % len(span)
    return torch.stack([span[col], span[row]]).to(frame0.dtype)
