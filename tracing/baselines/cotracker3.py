"""CoTracker3 (Karaev et al. 2024) by torch.hub, on the two frames as a clip."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tracing.baselines.zero_motion import all_visible
from tracing.config import Traces

REPOSITORY = "facebookresearch/co-tracker"
ENTRY = "cotracker3_offline"
WEIGHTS = "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth"
HALF_PX = 0.5  # its predictor counts from the center of the first pixel, we from its corner


class CoTracker3:
    """A learned point tracker, given two frames. Code and weights are CC-BY-NC 4.0.

    Points of a frame pair are tracked together with a grid of its own, so an answer depends a
    little on what else is asked. Frames are stretched to 384x512 inside, with the centers of the
    corner pixels aligned: there a point (x, y) counts from the center of the first pixel.

    Args:
        hub_dir: a clone of the repository; None: torch.hub downloads it, and runs its code.

    Raises:
        ValueError: code or weights are not to be had.

    Source:
        https://github.com/facebookresearch/co-tracker (hubconf.py, cotracker/predictor.py)
    """

    name = "cotracker3"
    needs_model = False
    any_size = True

    def __init__(self, hub_dir: str | Path | None = None) -> None:
        where, source = (REPOSITORY, "github") if hub_dir is None else (str(hub_dir), "local")
        try:
            network = torch.hub.load(
                where, ENTRY, source=source, trust_repo=True, verbose=False, pretrained=True
            )
        except (OSError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"tracer=cotracker3 could not be loaded from {where} ({reason}); type git clone "
                f"https://github.com/{REPOSITORY} DIR, pass tracer.hub_dir=DIR, and put "
                f"{WEIGHTS} into {torch.hub.get_dir()}/checkpoints."
            ) from error
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        if not points.shape[1]:
            return all_visible(points.clone())
        self.network.to(frame0.device)
        clips = 255 * torch.stack([frame0, frame1], dim=1)
        queries = F.pad(points.to(frame0) - HALF_PX, (1, 0))  # (t, x, y) with t = 0
        xy, visible = [], []
        for clip, query in zip(clips.split(1), queries.split(1), strict=True):
            tracks, seen = self.network(clip, queries=query)
            xy.append(tracks[:, 1] + HALF_PX)
            visible.append(seen[:, 1])
        return Traces(xy=torch.cat(xy).to(points), visible=torch.cat(visible).bool())
