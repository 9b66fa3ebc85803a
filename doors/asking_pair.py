"""``task=pair``: the flow from one image to another, at every pixel."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from torch import Tensor

from data.images import read_image
from data.index import write_whole
from data.readers.flow_files import write_flow
from doors.asking import Question, digest
from tracing.asking import Asking
from tracing.benchmarks.base import Tracer
from tracing.dense import DenseFlow, dense_flow, query_lattice
from tracing.visualize import dense_figure, flow_colors, full_color_px, png_bytes

FORMATS = ("flo", "kitti", "npz", "color", "picture")


class Pair(Question):
    """Dense flow of two images of one size.

    Args:
        stride: ask for every so-many-th patch of the model's grid, along both axes.
        formats: some of ``FORMATS``.
        back: trace what was found back to frame 0.
        return_px: distance at which a point that was traced back counts as visible, px as stored;
            None: the longer side of a patch.
        block: queries that a model is asked, and whose answers are kept, as one.
        input_px: side of the square that both frames are stretched to for the model; None: as it
            was trained.
    """

    name = "pair"

    def __init__(
        self,
        frame0: str | Path | None,
        frame1: str | Path | None,
        stride: int = 1,
        formats: Sequence[str] = FORMATS,
        back: bool = True,
        return_px: float | None = None,
        block: int = 64,
        input_px: int | None = None,
        device: str = "cpu",
    ) -> None:
        if frame0 is None or frame1 is None:
            raise ValueError(
                "task=pair needs two images: pass task.frame0=FILE.png task.frame1=FILE.png."
            )
        if unknown := sorted(set(formats) - set(FORMATS)):
            raise ValueError(
                f"task.formats: {unknown[0]!r} is not known; use {', '.join(FORMATS)}."
            )
        self.paths = (Path(frame0), Path(frame1))
        self.frames = [read_image(path) for path in self.paths]
        sizes = [f"{frame.shape[-1]}x{frame.shape[-2]}" for frame in self.frames]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"both frames must have one size, got {sizes[0]} px ({frame0}) and {sizes[1]} px "
                f"({frame1}); crop or resize one of them."
            )
        self.frame_hw = (self.frames[0].shape[-2], self.frames[0].shape[-1])
        self.stride, self.formats = stride, tuple(formats)
        self.return_px = None if return_px is None else float(return_px)
        self.back, self.block, self.input_px, self.device = back, block, input_px, device

    def inputs(self) -> dict[str, Any]:
        return {
            "frame0_sha256": digest(self.paths[0]),
            "frame1_sha256": digest(self.paths[1]),
            "resolution_hw": list(self.frame_hw),
            "stride": self.stride,
            "input_px": self.input_px,
        }

    def count(self, grid_hw: tuple[int, int]) -> int:
        return query_lattice(self.frame_hw, grid_hw, self.stride)[..., 0].numel()

    def answer(self, tracer: Tracer, grid_hw: tuple[int, int], how: Asking) -> DenseFlow:
        frames = [frame.to(self.device) for frame in self.frames]
        kept = {"stride": self.stride, "return_px": self.return_px}
        return dense_flow(tracer, *frames, grid_hw, how=how, **kept)

    def about(self, result: DenseFlow) -> dict[str, Any]:
        return {
            "frame0": str(self.paths[0]),
            "frame1": str(self.paths[1]),
            "num_points": result.points[..., 0].numel(),
            "mean_motion_px": result.flow.norm(dim=0).mean().item(),
            "visible_share": result.visible.double().mean().item(),
            "traced_back": result.return_px is not None,
            "return_px": result.threshold_px,
            "seconds": result.seconds,
            "points_per_second": result.points_per_second,
        }

    def write(self, out: Path, result: DenseFlow, console: Console) -> list[Path]:
        writers: dict[str, tuple[str, Callable[[Path], None]]] = {
            "flo": ("flow.flo", lambda path: write_flow(path, result.flow)),
            "kitti": ("flow.png", lambda path: write_flow(path, result.flow)),
            "npz": ("flow.npz", lambda path: write_whole(path, _npz(result))),
            "color": ("flow_color.png", lambda path: write_whole(path, _colors(result))),
            "picture": ("pair.png", lambda path: write_whole(path, self._picture(result))),
        }
        written = []
        for kind in self.formats:
            name, write = writers[kind]
            if kind == "kitti" and not fits_kitti(result.flow):
                longest = result.flow.abs().max().item()
                console.print(
                    f"warning: {name} left out: KITTI files hold flow within +-512 px, and this "
                    f"one reaches {longest:.0f}; flow.flo and flow.npz hold all of it",
                    soft_wrap=True,
                    highlight=False,
                )
                continue
            write(out / name)
            written.append(out / name)
        return written

    def _picture(self, result: DenseFlow) -> bytes:
        shown = (*self.frames, result.flow, result.visible, result.confidence)
        return png_bytes(dense_figure(*shown))


def fits_kitti(flow: Float[Tensor, "2 height width"]) -> bool:
    """Whether 16 bits of 1/64 px around 2^15 hold every value."""
    steps = (flow.double() * 64).round()
    return bool((steps >= -(2**15)).all() and (steps < 2**15).all())


def _npz(result: DenseFlow) -> bytes:
    names = ("flow", "visible", "confidence", "points", "grid_flow", "grid_confidence")
    arrays = {name: getattr(result, name) for name in (*names, "peak_kl", "return_px")}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v.numpy() for k, v in arrays.items() if v is not None})
    return buffer.getvalue()


def _colors(result: DenseFlow) -> bytes:
    full, buffer = full_color_px(result.flow, result.visible), io.BytesIO()
    colors = flow_colors(result.flow, full).movedim(0, -1)
    Image.fromarray(colors.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
