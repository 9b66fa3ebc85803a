"""Folders of frame pairs with dense flow: points drawn from it, tracers run at their own size.

Errors are in pixels of each pair as stored. A model is given both frames at its own input size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from data.coords import pixel_centers, rescale_points
from data.readers.flow_pairs import find_flow_pairs, read_flow_pair
from data.types import FlowPair, PointPairs
from tracing.baselines import DIS
from tracing.benchmarks.base import Row, Tracer, perfect_answer
from tracing.benchmarks.evaluation import Pictures, on_device
from tracing.config import TracerConfig, Traces
from tracing.crops import resize
from tracing.metrics import functional
from tracing.visualize import flow_figure


def point_pairs_of(pair: FlowPair, points_per_pair: int, seed: int) -> PointPairs:
    """Points uniform over pixels with known flow whose target is in frame 1 and, if known, visible.

    Points are pixel centers, all different; a pair with too few is padded (``valid`` False).
    """
    height, width = pair.valid.shape
    centers = pixel_centers(height, width).flatten(0, 1)
    target = centers + rearrange(pair.flow, "uv h w -> (h w) uv")
    inside = ((target >= 0) & (target < target.new_tensor([width, height]))).all(-1)
    eligible = pair.valid.flatten() & inside
    if pair.visible is not None:
        eligible &= pair.visible.flatten()
    index = eligible.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chosen = index[torch.randperm(len(index), generator=generator)[:points_per_pair]]
    valid = torch.arange(points_per_pair) < len(chosen)
    chosen = F.pad(chosen, (0, points_per_pair - len(chosen)))
    return PointPairs(
        frame0=pair.frame0[None],
        frame1=pair.frame1[None],
        points=centers[chosen][None],
        target=target[chosen][None],
        visible=valid[None].clone(),
        valid=valid[None],
        name=pair.name,
    )


def resized_pairs(pairs: PointPairs, hw: tuple[int, int]) -> PointPairs:
    """The same queries on frames stretched to ``hw``."""
    from_hw = (pairs.frame0.shape[-2], pairs.frame0.shape[-1])
    return PointPairs(
        frame0=resize(pairs.frame0, hw),
        frame1=resize(pairs.frame1, hw),
        points=rescale_points(pairs.points, from_hw, hw),
        target=rescale_points(pairs.target, from_hw, hw),
        visible=pairs.visible,
        valid=pairs.valid,
        name=pairs.name,
    )


class Resized:
    """A tracer that is shown frames stretched to ``hw`` and answers in pixels of the originals.

    ``never_hidden`` counts patches of the resized frames, whose size ``input_hw`` says.
    """

    def __init__(self, tracer: Tracer, hw: tuple[int, int]) -> None:
        self.tracer, self.hw, self.needs_model = tracer, hw, tracer.needs_model
        self.input_hw = hw
        self.name = f"{tracer.name}@{hw[0]}x{hw[1]}"

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        native = (frame0.shape[-2], frame0.shape[-1])
        inside = rescale_points(points, native, self.hw)
        traces = self.tracer(resize(frame0, self.hw), resize(frame1, self.hw), inside, seed=seed)
        return replace(traces, xy=rescale_points(traces.xy, self.hw, native))


def at_sizes(tracer: Tracer, input_hw: tuple[int, int] | None) -> list[Tracer]:
    """Zero motion as it is, DIS at both sizes, everything else at the input size (None: not).

    A tracer that takes native frames is told the input size; others are shown resized frames.
    """
    if tracer.name == "zero_motion":
        return [tracer]
    if getattr(tracer, "takes_native", False):
        return [tracer.at(input_hw)] if input_hw else []
    resized: list[Tracer] = [Resized(tracer, input_hw)] if input_hw else []
    if not isinstance(tracer, DIS):
        return resized
    if tracer.enlarge > 1:  # frames as stored are large enough
        return []
    native = DIS()
    native.name = "dis@native"
    return [native, *resized]


class FlowParts(Sequence[PointPairs]):
    """One part for each folder, read anew whenever it is asked for."""

    def __init__(self, folders: Sequence[Path], points_per_pair: int, seed: int, device: str):
        self.folders, self.points_per_pair = folders, points_per_pair
        self.seed, self.device = seed, device

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> PointPairs:
        if not 0 <= index < len(self):
            raise IndexError(index)
        pair = read_flow_pair(self.folders[index])
        return on_device(point_pairs_of(pair, self.points_per_pair, self.seed + index), self.device)


class FlowPairs:
    """Task: the folders right below ``root``, each with frame0.png, frame1.png and flow.flo.

    Args:
        num_pairs: at most so many, in the order of their names; None for all.
        input_px: side of the square that models (and DIS once more) are given; None: only
            tracers that take any size take part.
    """

    name = "flow_pairs"

    def __init__(
        self,
        root: str | Path | None,
        points_per_pair: int,
        seed: int,
        num_pairs: int | None = None,
        input_px: int | None = None,
        device: str = "cpu",
    ) -> None:
        if root is None:
            raise ValueError("task=flow_pairs needs a folder of pairs: pass task.root=DIR.")
        self.root = Path(root)
        folders = find_flow_pairs(root)[:num_pairs]
        self.parts = FlowParts(folders, points_per_pair, seed, device)
        self.input_hw = None if input_px is None else (input_px, input_px)

    def adapt(self, tracer: Tracer) -> list[Tracer]:
        return at_sizes(tracer, self.input_hw)

    def floor(self, patch_px: int, cfg: TracerConfig, map_px: int) -> float:
        """A perfect detector at the input size, its error in px of the pairs as stored.

        Without an input size: at the pair's own, stretched to whole patches.
        """
        errors = []
        for part in self.parts:
            native = (part.frame0.shape[-2], part.frame0.shape[-1])
            whole = [-(-side // patch_px) * patch_px for side in native]
            hw = self.input_hw or (whole[0], whole[1])
            small = resized_pairs(part, hw)
            answer = perfect_answer(small, patch_px, cfg.placement, map_px)
            answer = rescale_points(answer, hw, native)
            errors.append(functional.distances(answer, part.target)[functional.scored_points(part)])
        return torch.cat(errors).mean().item()

    def about(self) -> dict:
        sizes = {part.frame0.shape[-2:] for part in self.parts}
        about = {
            "root": str(self.root),
            "resolution_hw": list(sizes.pop()) if len(sizes) == 1 else None,
        }
        return about | ({"input_hw": list(self.input_hw)} if self.input_hw else {})

    def pairs_table(self, rows: Sequence[Row]) -> list[dict]:
        wanted = ("zero_motion", "dis", "kl", "rgb")
        shown = [row for row in rows if row.name.split("@")[0] in wanted]
        table = []
        for number, part in enumerate(self.parts):
            epe = {row.name: _mean(row.errors[row.frame_pair == number]) for row in shown}
            scored = int((rows[0].frame_pair == number).sum())
            about = {"name": part.name, "resolution_hw": list(part.frame0.shape[-2:])}
            table.append(about | {"num_points": scored, "epe": epe})
        return table

    def pictures(self, rows: Sequence[Row]) -> Pictures:
        """Flow by DIS beside the true flow, two pairs."""
        pictures: Pictures = {}
        for pair in map(read_flow_pair, self.parts.folders[:2]):
            flow = DIS().dense_flow(pair.frame0[None], pair.frame1[None])[0] * pair.valid
            caption = f"{pair.name}: flow by DIS at the size as stored, and the true flow."
            pictures[f"flow_{len(pictures)}"] = (caption, flow_figure(pair.frame0, flow, pair.flow))
        return pictures

    def for_model(self) -> Iterator[PointPairs]:
        """The parts as a model sees them."""
        return (resized_pairs(part, self.input_hw) for part in self.parts)


def _mean(errors: Tensor) -> float | None:
    return errors.mean().item() if len(errors) else None
