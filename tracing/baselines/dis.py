"""Dense inverse search (Kroeger et al. 2016) as OpenCV ships it, preset MEDIUM, on gray frames."""

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from data.coords import sample_at
from tracing.baselines.zero_motion import all_visible
from tracing.config import Traces

MIN_SIDE_PX = 16  # OpenCV 5 refuses sides under 12 px and crashes on some between 12 and 16


class DIS:
    """A classical optical flow. Needs OpenCV and texture; no training, no model, no seed.

    ``enlarge`` blows both frames up (bicubic) by a whole factor before the flow is computed; the
    flow is read at the enlarged point, bilinearly, and divided by the factor. Frames with a side
    under 16 px are always enlarged, by the least factor that reaches 16.
    """

    needs_model = False

    def __init__(self, enlarge: int = 1) -> None:
        if enlarge < 1:
            raise ValueError(f"enlarge={enlarge} does not enlarge; pass a whole number from 1 up.")
        self.enlarge = enlarge
        self.name = "dis" if enlarge == 1 else f"dis_x{enlarge}"

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        flow = self.dense_flow(frame0, frame1)
        factor = flow.shape[-1] // frame0.shape[-1]
        return all_visible(points + sample_at(flow, points * factor).to(points))

    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 enlarged_height enlarged_width"]:
        """Flow on the enlarged pixel grid, its values in pixels of the frames as given."""
        factor = max(self.enlarge, -(-MIN_SIDE_PX // min(frame0.shape[-2:])))
        flows = []
        for first, second in zip(frame0, frame1, strict=True):
            search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            flow = search.calc(_gray(first, factor), _gray(second, factor), None)
            flows.append(torch.from_numpy(rearrange(flow, "h w uv -> uv h w") / factor))
        return torch.stack(flows).to(frame0)


def _gray(frame: Float[Tensor, "3 height width"], factor: int) -> UInt8[np.ndarray, "h w"]:
    pixels = (frame.clamp(0, 1) * 255).round().byte().cpu().numpy()
    gray = cv2.cvtColor(rearrange(pixels, "c h w -> h w c"), cv2.COLOR_RGB2GRAY)
    if factor == 1:
        return gray
    return cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
