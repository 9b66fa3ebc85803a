"""Crops of frames enlarged to the size a model takes, and points carried there and back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Boxes:
    """Rectangles of one size, in px of the frames they lie in; float64 corners."""

    corner: Float[Tensor, "n 2"]  # (x, y) of the top-left corner
    size_hw: tuple[int | float, int | float]  # whole where a box is to be cut

    def within(self, outer: "Boxes", outer_hw: tuple[int, int]) -> "Boxes":
        """The same rectangles where the frames of ``outer`` are, whose crops of ``outer_hw`` px
        they were measured in."""
        height, width = (
            own * side / shown
            for own, side, shown in zip(self.size_hw, outer.size_hw, outer_hw, strict=True)
        )
        return Boxes(to_frame(self.corner, outer, outer_hw), (height, width))


def box_round(
    centers: Float[Tensor, "n 2"], size_hw: tuple[int, int], frame_hw: tuple[int, int]
) -> Boxes:
    """Boxes of whole pixels, as near to centered as whole pixels inside the frame can be.

    Raises:
        ValueError: the boxes are empty, or larger than the frame.
    """
    for side, available in zip(size_hw, frame_hw, strict=True):
        if not 0 < side <= available:
            raise ValueError(
                f"a box of {size_hw[0]}x{size_hw[1]} px does not fit into a frame of "
                f"{frame_hw[0]}x{frame_hw[1]} px; ask for at least 1 px and at most the frame."
            )
    size, frame = (centers.new_tensor([w, h], dtype=torch.float64) for h, w in (size_hw, frame_hw))
    corner = (centers.double() - size / 2).round()
    return Boxes(torch.minimum(corner.clamp_min(0), frame - size), size_hw)


def whole(num: int, frame_hw: tuple[int, int], device: torch.device) -> Boxes:
    """So many boxes that are the whole frame."""
    return Boxes(torch.zeros(num, 2, dtype=torch.float64, device=device), frame_hw)


def cut(
    frames: Float[Tensor, "frames 3 height0 width0"],
    of: Int[Tensor, " n"],
    boxes: Boxes,
    hw: tuple[int, int],
) -> Float[Tensor, "n 3 height1 width1"]:
    """Box i of frame ``of[i]``, stretched to ``hw``. The boxes must be of whole pixels."""
    height, width = map(int, boxes.size_hw)
    crops = [
        frames[index, :, y : y + height, x : x + width]
        for index, (x, y) in zip(of.tolist(), boxes.corner.long().tolist(), strict=True)
    ]
    return resize(torch.stack(crops), hw) if crops else frames.new_empty(0, 3, *hw)


def resize(
    frames: Float[Tensor, "batch 3 height0 width0"], hw: tuple[int, int]
) -> Float[Tensor, "batch 3 height1 width1"]:
    """Frames stretched to ``hw``, bilinear, antialiased where they shrink."""
    if tuple(frames.shape[-2:]) == tuple(hw):
        return frames
    resized = F.interpolate(frames, size=hw, mode="bilinear", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def to_crop(
    points: Float[Tensor, "n 2"], boxes: Boxes, hw: tuple[int, int]
) -> Float[Tensor, "n 2"]:
    """Where points of the frames are in the crops of ``hw`` px, one point a box."""
    return ((points.double() - boxes.corner) / _step(boxes, hw)).to(points.dtype)


def to_frame(
    points: Float[Tensor, "n 2"], boxes: Boxes, hw: tuple[int, int]
) -> Float[Tensor, "n 2"]:
    """Where points of the crops of ``hw`` px are in the frames: the inverse of ``to_crop``."""
    return (points.double() * _step(boxes, hw) + boxes.corner).to(points.dtype)


def _step(boxes: Boxes, hw: tuple[int, int]) -> Float[Tensor, "2"]:
    """(x, y) px of the frame in one px of the crop."""
    (height, width), (rows, cols) = boxes.size_hw, hw
    return boxes.corner.new_tensor([width / cols, height / rows])


@dataclass(frozen=True)
class View:
    """Images of one size, row i showing ``boxes`` i of a frame; several rows may share an image."""

    images: Float[Tensor, "images 3 height width"]
    of: Int[Tensor, " n"]  # which image each row shows
    boxes: Boxes

    @property
    def hw(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    def zoom(
        self, centers: Float[Tensor, "n 2"], size_hw: tuple[int, int], hw: tuple[int, int]
    ) -> "View":
        """What is round ``centers`` (px of the frame), ``size_hw`` px of these images large."""
        boxes = box_round(self.see(centers), size_hw, self.hw)
        images = cut(self.images, self.of, boxes, hw)
        own = torch.arange(len(images), device=images.device)
        return View(images, own, boxes.within(self.boxes, self.hw))

    def see(self, points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Points of the frame, in px of the images."""
        return to_crop(points, self.boxes, self.hw)

    def place(self, points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Points of the images, in px of the frame."""
        return to_frame(points, self.boxes, self.hw)
