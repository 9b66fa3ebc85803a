"""Task: frame pairs with dense flow. Points drawn from it, and every pixel where a tracer knows it.

Errors are in pixels of each pair as stored. A model is given both frames at its own input size.
"""

import keyword
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.coords import rescale_points
from data.readers.flow_pairs import folder_pairs
from data.readers.pair_files import PairFiles, read_pair
from data.types import PointPairs
from tracing.baselines import DIS
from tracing.benchmarks.base import Row, Tracer, evaluate, perfect_answer
from tracing.benchmarks.flow_parts import FlowParts, point_pairs_of
from tracing.benchmarks.flow_scores import DenseAnswers, FlowRow, dense_pairs
from tracing.benchmarks.pictures import Pictures
from tracing.benchmarks.sizes import Resized, at_sizes, resized_pairs
from tracing.config import TracerConfig
from tracing.metrics import functional
from tracing.visualize import flow_figure

__all__ = ["FlowPairs", "Resized", "at_sizes", "point_pairs_of", "resized_pairs"]


class FlowPairs:
    """Task: the pairs of a data set of flow; by default folders right below ``root``.

    Args:
        root: folder of the data set.
        points_per_pair: drawn from each pair for the scores of points.
        num_pairs: at most so many, in the order of their names; None for all.
        input_px: side of the square that models (and tracers of any size once more) are given;
            None: only tracers that take any size take part.
        dense_stride: kl and rgb are also asked for every so-many-th patch and scored at every
            pixel, interpolated in between; None: they are not. Tracers with ``dense_flow`` always.
        dataset: lists the pairs below ``root``, given the ``settings`` (a key that is a word of
            Python gets an underscore: pass, pass_).
        dataset_name: what results and reports call it, with the values of the settings; None:
            the name of the folder.
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
        dense_stride: int | None = None,
        dataset: Callable[..., Sequence[PairFiles]] = folder_pairs,
        dataset_name: str | None = None,
        **settings: str,
    ) -> None:
        limits = {"points_per_pair": points_per_pair, "num_pairs": num_pairs}
        for key, limit in (limits | {"dense_stride": dense_stride}).items():
            if limit is not None and limit < 1:
                raise ValueError(f"task.{key}={limit} leaves nothing; pass a number from 1 up.")
        words = {f"{key}_" if keyword.iskeyword(key) else key: settings[key] for key in settings}
        found = dataset(root, **words)
        pairs = found[:num_pairs]
        self.part = f"{len(pairs)} of {len(found)} pairs" if len(pairs) < len(found) else ""
        self.root, self.dense_stride, self.settings = Path(root), dense_stride, settings
        self.dataset_name = dataset_name
        self.parts = FlowParts(pairs, points_per_pair, seed, device)
        self.input_hw = None if input_px is None else (input_px, input_px)

    def adapt(self, tracer: Tracer) -> list[Tracer]:
        return at_sizes(tracer, self.input_hw)

    def only(self, units: Sequence[str]) -> "FlowPairs":
        """The same task with the pairs of these names only, their points as they were."""
        smaller = object.__new__(FlowPairs)
        smaller.__dict__ |= self.__dict__ | {"parts": self.parts.only(units)}
        return smaller

    def score(
        self,
        tracers: Sequence[Tracer],
        parts: Iterable[PointPairs],
        seed: int,
        *,
        patch_px: int,
        paired_with: str | None = None,
    ) -> list[FlowRow]:
        """One row for each tracer over the points, with the scores over pixels of those who know.

        Raises:
            ValueError: as ``evaluate``; a dense answer that is not finite or not of its size.
        """
        grid_hw = None
        if self.input_hw is not None:
            grid_hw = (self.input_hw[0] // patch_px, self.input_hw[1] // patch_px)
        dense = DenseAnswers(tracers, seed, grid_hw, self.dense_stride)
        watched = dense.watch(parts)
        return dense.rows(
            evaluate(tracers, watched, seed, patch_px=patch_px, paired_with=paired_with)
        )

    def dense_pairs(self, rows: Sequence[Row]) -> list[dict]:
        return dense_pairs(rows)

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
        sizes = {pair.size() for pair in self.parts.pairs}
        about = {
            "root": str(self.root),
            "num_pairs": len(self.parts),
            "resolution_hw": list(sizes.pop()) if len(sizes) == 1 else None,
            "dense": self._how_dense(),
        }
        if self.part:
            about["part"] = self.part
        if self.dataset_name is not None:
            about["dataset"] = "_".join([self.dataset_name, *self.settings.values()])
            about["settings"] = dict(self.settings)
        return about | ({"input_hw": list(self.input_hw)} if self.input_hw else {})

    def _how_dense(self) -> str:
        every = "every pixel of tracers that know it"
        if self.dense_stride is None:
            return every
        return f"{every}; kl and rgb: one patch of every {self.dense_stride} along both axes"

    def pairs_table(self, rows: Sequence[Row]) -> list[dict]:
        wanted = {"zero_motion", "dis", "kl", "rgb", rows[0].name.split("@")[0]}
        shown = [row for row in rows if row.name.split("@")[0] in wanted]
        table = []
        for number, pair in enumerate(self.parts.pairs):
            epe = {row.name: _mean(row.errors[row.frame_pair == number]) for row in shown}
            scored = int((rows[0].frame_pair == number).sum())
            about = {"name": pair.name, "resolution_hw": list(pair.size())}
            table.append(about | {"num_points": scored, "epe": epe})
        return table

    def pictures(self, rows: Sequence[Row]) -> Pictures:
        """Flow by DIS beside the true flow, two pairs."""
        pictures: Pictures = {}
        for pair in map(read_pair, self.parts.pairs[:2]):
            flow = DIS().dense_flow(pair.frame0[None], pair.frame1[None])[0] * pair.valid
            caption = f"{pair.name}: flow by DIS at the size as stored, and the true flow."
            pictures[f"flow_{len(pictures)}"] = (caption, flow_figure(pair.frame0, flow, pair.flow))
        return pictures

    def for_model(self) -> Iterator[PointPairs]:
        """The parts as a model sees them."""
        return (resized_pairs(part, self.input_hw) for part in self.parts)


def _mean(errors: Tensor) -> float | None:
    return errors.mean().item() if len(errors) else None
