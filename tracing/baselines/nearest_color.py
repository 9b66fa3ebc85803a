"""Matching by looks alone: the frame-1 patch most like the patch that holds the query."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.baselines.zero_motion import all_visible
from tracing.config import Traces


class NearestPatchColor:
    """Moves each query by whole patches to the most similar patch of frame 1.

    Needs only the frames, of whole patches. ``match`` says what is compared, by Euclidean
    distance: the ``mean`` color of a patch or all its ``pixels``. Ties go to the patch nearest in
    space, then to the first in row-major order.
    """

    needs_model = False

    def __init__(self, patch_px: int, match: Literal["mean", "pixels"] = "mean") -> None:
        if match not in ("mean", "pixels"):
            raise ValueError(f"match={match!r} is unknown; choose 'mean' or 'pixels'.")
        self.patch_px, self.match = patch_px, match
        self.name = f"nearest_patch_{'color' if match == 'mean' else 'pixels'}"

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        grid = PatchGrid(*frame0.shape[-2:], self.patch_px, self.patch_px)
        centers = grid.patch_centers().to(points)
        source = grid.patch_index(points)
        looks0, looks1 = self._looks(frame0), self._looks(frame1)
        wanted = looks0.gather(1, source[..., None].expand(-1, -1, looks0.shape[-1]))
        # subtle: the matrix-product form of cdist rounds, and equal patches would no longer tie
        unlike = torch.cdist(wanted, looks1, compute_mode="donot_use_mm_for_euclid_dist")
        best = _nearest_of_the_best(unlike, torch.cdist(centers, centers)[source])
        return all_visible(points + centers[best] - centers[source])

    def _looks(self, frame: Float[Tensor, "batch 3 height width"]) -> Tensor:
        side = self.patch_px
        pixels = rearrange(frame, "b c (r y) (k x) -> b (r k) c (y x)", y=side, x=side).double()
        return pixels.mean(-1) if self.match == "mean" else pixels.flatten(2)


def _nearest_of_the_best(
    unlike: Float[Tensor, "batch points patches"], away: Float[Tensor, "batch points patches"]
) -> Int[Tensor, "batch points"]:
    best = unlike == unlike.amin(-1, keepdim=True)
    away = torch.where(best, away, torch.inf)
    first = away == away.amin(-1, keepdim=True)
    return first.int().argmax(-1)
