"""Held-out synthetic query points with exact ground truth, as a seeded, fixed set."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, replace

import torch

from data.synthetic import SceneConfig, SceneSampler, point_pairs
from data.textures import texture_bank
from data.types import PointPairs
from tracing.benchmarks.base import Row, Tracer, readout_floor
from tracing.benchmarks.evaluation import on_device
from tracing.benchmarks.pictures import Pictures
from tracing.config import TracerConfig

FIELDS = ("frame0", "frame1", "points", "target", "visible", "valid", "layer")


def synthetic_pairs(
    scene: SceneConfig,
    num_pairs: int = 64,
    points_per_pair: int = 8,
    min_motion_px: float = 4.0,
    seed: int = 0,
    name: str = "synthetic",
    max_motion_px: float = math.inf,
    visible_only: bool = True,
) -> PointPairs:
    """Points uniform over pixels moving by the given range, on held-out textures.

    ``visible_only`` leaves out pixels that are hidden in frame 1. Scenes without enough pixels to
    choose from (a still camera, say) are drawn again, so every point counts.

    Raises:
        ValueError: scenes of this kind hardly ever hold such pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    sampler = SceneSampler(scene, texture_bank("eval", seed, count=100))
    kept: list[PointPairs] = []
    drawn = found = 0
    while found < num_pairs:
        if drawn > 50 * num_pairs:
            raise ValueError(
                f"only {found} of {drawn} scenes hold {points_per_pair} points that move by "
                f"{min_motion_px} to {max_motion_px} px; widen the range or lower points_per_pair."
            )
        pairs = point_pairs(
            sampler.sample(num_pairs, generator),
            points_per_pair,
            generator,
            min_motion_px,
            max_motion_px=max_motion_px,
            visible_only=visible_only,
        )
        keep = pairs.valid.all(1).nonzero()[:, 0][: num_pairs - found]
        kept.append(select(pairs, keep))
        drawn, found = drawn + num_pairs, found + len(keep)
    joined = {f: torch.cat([getattr(part, f) for part in kept]) for f in FIELDS}
    return PointPairs(**joined, name=name)


def select(pairs: PointPairs, index: torch.Tensor) -> PointPairs:
    """The pairs at ``index``."""
    return PointPairs(**{f: getattr(pairs, f)[index] for f in FIELDS}, name=pairs.name)


class SyntheticScenes:
    """Task: ``synthetic_pairs`` of one kind of scene, in parts that each draw their own masks."""

    name = "synthetic"

    def __init__(
        self,
        scene: SceneConfig,
        num_pairs: int,
        points_per_pair: int,
        min_motion_px: float,
        seed: int,
        scene_name: str = "",
        part_pairs: int = 16,
        device: str = "cpu",
    ) -> None:
        self.scene, self.scene_name, self.min_motion_px = scene, scene_name, min_motion_px
        pairs = synthetic_pairs(scene, num_pairs, points_per_pair, min_motion_px, seed)
        chunks = torch.arange(num_pairs).split(part_pairs)
        self.parts = [
            replace(on_device(select(pairs, chunk), device), name=f"scenes_{number:03d}")
            for number, chunk in enumerate(chunks)
        ]

    def only(self, units: Sequence[str]) -> "SyntheticScenes":
        """The same task with these parts only."""
        fewer = copy(self)
        fewer.parts = [part for part in self.parts if part.name in units]
        return fewer

    def adapt(self, tracer: Tracer) -> list[Tracer]:
        return [tracer]

    def floor(self, patch_px: int, cfg: TracerConfig, map_px: int) -> float:
        return readout_floor(self.parts, patch_px, cfg.placement, map_px)

    def for_model(self) -> Iterator[PointPairs]:
        return iter(self.parts)

    def about(self) -> dict:
        scene = {"name": self.scene_name} | asdict(self.scene)
        about = {"resolution_hw": [self.scene.size] * 2, "scene": scene}
        return about | {"min_motion_px": self.min_motion_px}

    def pairs_table(self, rows: Sequence[Row]) -> list[dict]:
        return []

    def pictures(self, rows: Sequence[Row]) -> Pictures:
        return {}
