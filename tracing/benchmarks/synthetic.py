"""Held-out synthetic query points with exact ground truth, as a seeded, fixed set."""

import torch

from data.synthetic import SceneConfig, SceneSampler, point_pairs
from data.textures import texture_bank
from data.types import PointPairs


def synthetic_pairs(
    scene: SceneConfig,
    num_pairs: int = 64,
    points_per_pair: int = 8,
    min_motion_px: float = 4.0,
    seed: int = 0,
    name: str = "synthetic",
) -> PointPairs:
    """Points uniform over visible pixels that move at least ``min_motion_px``, on held-out textures.

    Scenes without enough such pixels (a still camera, say) are drawn again, so every point counts.

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
                f"only {found} of {drawn} scenes hold {points_per_pair} visible points that move "
                f"{min_motion_px} px; lower min_motion_px or points_per_pair."
            )
        pairs = point_pairs(
            sampler.sample(num_pairs, generator), points_per_pair, generator, min_motion_px
        )
        keep = pairs.valid.all(1).nonzero()[:, 0][: num_pairs - found]
        kept.append(select(pairs, keep))
        drawn, found = drawn + num_pairs, found + len(keep)
    fields = ("frame0", "frame1", "points", "target", "visible", "valid")
    joined = {f: torch.cat([getattr(part, f) for part in kept]) for f in fields}
    return PointPairs(**joined, name=name)


def select(pairs: PointPairs, index: torch.Tensor) -> PointPairs:
    """The pairs at ``index``."""
    fields = ("frame0", "frame1", "points", "target", "visible", "valid")
    return PointPairs(**{f: getattr(pairs, f)[index] for f in fields}, name=pairs.name)
