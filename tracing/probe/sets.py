"""Named sets of held-out queries: synthetic scenes, folders of real pairs, TAP-Vid pickles.

A set is drawn once, from its own seed, so every probe of every run asks the same questions.
Ground truth stays here: the model is shown frames, nothing else.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.readers.flow_pairs import find_flow_pairs, read_flow_pair
from data.readers.tapvid import TrackFile
from data.synthetic import SceneConfig
from data.types import PointPairs
from tracing.baselines import DIS
from tracing.benchmarks.flow import point_pairs_of, resized_pairs
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.benchmarks.tapvid import TrackParts


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """Queries with ground truth. Part i of ``shown`` and of ``stored`` is one frame pair.

    ``shown`` is what the model sees, at its input size; ``stored`` has the same points in pixels
    of the frames as stored, whose pixels are not kept: its frames are empty, its size is ``hw``.
    ``dis`` is what DIS answers there, on the frames as stored.
    """

    shown: list[PointPairs]
    stored: list[PointPairs]
    hw: list[tuple[int, int]]
    dis: list[Float[Tensor, "points 2"]]
    about: str  # what it holds and how it was drawn, in one line

    @property
    def num_points(self) -> int:
        return sum(part.points.shape[1] for part in self.shown)

    @property
    def num_visible(self) -> int:
        return sum(int(part.visible.sum()) for part in self.shown)


def probe_set(
    pairs: Iterable[PointPairs], name: str, input_px: int | None = None, drawn: str = "all points"
) -> ProbeSet:
    """A set of the valid points of all pairs; pairs without a valid point are left out.

    Args:
        input_px: side of the square the model is given; None shows it the frames as they are.
        drawn: how the points were chosen, for ``about``.

    Raises:
        ValueError: there is no point whose target is visible, so nothing could be scored.
    """
    shown, stored, sizes, dis = [], [], [], []
    for single in (one for batch in pairs for one in _singles(batch)):
        hw = (single.frame0.shape[-2], single.frame0.shape[-1])
        shown.append(single if input_px is None else resized_pairs(single, (input_px, input_px)))
        dis.append(DIS()(single.frame0, single.frame1, single.points).xy[0])
        no_frame = single.frame0.new_empty(1, 3, 0, 0)
        stored.append(replace(single, frame0=no_frame, frame1=no_frame))
        sizes.append(hw)
    visible = sum(int(part.visible.sum()) for part in stored)
    if not visible:
        raise ValueError(
            f"no point of {name} has a visible target, so no error could be measured; name "
            f"another source, or leave this set out of probe_set=[...]."
        )
    points = sum(part.points.shape[1] for part in stored)
    about = f"{len(stored)} frame pairs, {points} points ({visible} visible), {drawn}"
    return ProbeSet(shown=shown, stored=stored, hw=sizes, dis=dis, about=about)


def synthetic(
    scene: SceneConfig,
    num_pairs: int = 16,
    points_per_pair: int = 4,
    min_motion_px: float = 1.0,
    max_motion_px: float = math.inf,
    seed: int = 7,
    input_px: int | None = None,
) -> ProbeSet:
    """Scenes on textures that are never trained on; points that get hidden are asked for too."""
    pairs = synthetic_pairs(
        scene,
        num_pairs,
        points_per_pair,
        min_motion_px,
        seed,
        max_motion_px=max_motion_px,
        visible_only=False,
    )
    drawn = f"uniform over pixels that move {min_motion_px} to {max_motion_px} px, seed {seed}"
    return probe_set([pairs], "synthetic", input_px, drawn)


def flow_folder(
    root: str | Path | None,
    num_pairs: int | None = None,
    points_per_pair: int = 6,
    seed: int = 7,
    input_px: int | None = None,
) -> ProbeSet:
    """A seeded draw of ``num_pairs`` (None: all) folders below ``root``, as ``task=flow_pairs``."""
    if root is None:
        raise ValueError(
            "the probe set of real pairs has no folder; pass "
            "callbacks.probe.sets.real_pairs.root=DIR, with frame0.png, frame1.png, flow.flo in "
            "each folder of it."
        )
    found = find_flow_pairs(root)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:num_pairs]
    folders = [found[i] for i in order.sort().values.tolist()]
    pairs = (
        point_pairs_of(read_flow_pair(folder), points_per_pair, seed + number)
        for number, folder in enumerate(folders)
    )
    drawn = f"of {len(found)} pairs, uniform over known flow that stays in view, seed {seed}"
    return probe_set(pairs, str(root), input_px, drawn)


def tapvid(
    path: str | Path | None,
    num_pairs: int | None = 32,
    points_per_pair: int = 6,
    seed: int = 7,
    input_px: int | None = None,
) -> ProbeSet:
    """A seeded subset of the (query frame, later frame) pairs of a TAP-Vid pickle, mode first."""
    if path is None:
        raise ValueError(
            "the probe set of TAP-Vid has no file; pass callbacks.probe.sets.tapvid.path=FILE.pkl."
        )
    generator = torch.Generator().manual_seed(seed)
    # Frames are decoded one video at a time, and only of the pairs that were drawn.
    every = TrackParts(TrackFile(path), None, None, 1, seed, "cpu")
    order = torch.randperm(len(every), generator=generator)[:num_pairs].sort().values
    chosen = (_some_points(every[i], points_per_pair, generator) for i in order.tolist())
    drawn = f"{len(order)} of {len(every)} pairs, {points_per_pair} points at most, seed {seed}"
    return probe_set(chosen, str(path), input_px, drawn)


def _singles(pairs: PointPairs) -> Iterable[PointPairs]:
    """One frame pair each, with its valid points only."""
    for i in range(len(pairs.points)):
        keep = pairs.valid[i]
        if keep.any():
            yield PointPairs(
                frame0=pairs.frame0[i : i + 1],
                frame1=pairs.frame1[i : i + 1],
                points=pairs.points[i : i + 1, keep],
                target=pairs.target[i : i + 1, keep],
                visible=pairs.visible[i : i + 1, keep],
                valid=pairs.valid[i : i + 1, keep],
                name=pairs.name,
                layer=None if pairs.layer is None else pairs.layer[i : i + 1, keep],
            )


def _some_points(pairs: PointPairs, count: int, generator: torch.Generator) -> PointPairs:
    """At most ``count`` random points of a single pair."""
    keep = torch.randperm(pairs.points.shape[1], generator=generator)[:count].sort().values
    fields = {f: getattr(pairs, f)[:, keep] for f in ("points", "target", "visible", "valid")}
    return replace(pairs, **fields)
