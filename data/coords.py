"""Every conversion of coordinates. One convention: (x, y) raster pixels, corner (0, 0).

Pixel (row i, column j) covers [j, j + 1) x [i, i + 1); its center is (j + 0.5, i + 0.5). A resize
aligns the image corners, so points and displacements change by one multiplication.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pixel_centers(height: int, width: int) -> Float[Tensor, "{height} {width} 2"]:
    """(x, y) of every pixel center: entry [i, j] is (j + 0.5, i + 0.5)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1) + 0.5


def rescale_points(
    points: Float[Tensor, "*n 2"], from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Float[Tensor, "*n 2"]:
    """Carry (x, y) points, or (u, v) displacements, through a resize of their image."""
    (height0, width0), (height1, width1) = from_hw, to_hw
    return points * points.new_tensor([width1 / width0, height1 / height0])


def rescale_flow(
    flow: Float[Tensor, "*batch 2 height0 width0"], from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Float[Tensor, "*batch 2 height1 width1"]:
    """Carry a flow field through a resize: resampled bilinearly, values in pixels of the new size.

    Raises:
        ValueError: the field does not have the size ``from_hw``.
    """
    if flow.shape[-2:] != torch.Size(from_hw):
        raise ValueError(
            f"the flow is {flow.shape[-2]}x{flow.shape[-1]} px but from_hw says "
            f"{from_hw[0]}x{from_hw[1]}; pass the size of the field itself as from_hw."
        )
    resampled = F.interpolate(
        flow.reshape(-1, *flow.shape[-3:]), size=to_hw, mode="bilinear", align_corners=False
    )
    scaled = rescale_points(resampled.movedim(-3, -1), from_hw, to_hw).movedim(-1, -3)
    return scaled.reshape(*flow.shape[:-2], *to_hw)


def sample_at(
    field: Float[Tensor, "batch channels height width"], points: Float[Tensor, "batch points 2"]
) -> Float[Tensor, "batch points channels"]:
    """Bilinear value of a field at (x, y) points; beyond the outer pixel centers, the border's."""
    height, width = field.shape[-2:]
    grid = rescale_points(points, (height, width), (2, 2)) - 1  # corners at -1 and 1
    values = F.grid_sample(
        field, grid[:, :, None].to(field), padding_mode="border", align_corners=False
    )
    return values.squeeze(-1).transpose(1, 2)
