"""Dense inverse search (Kroeger et al. 2016) as OpenCV ships it, preset MEDIUM, on gray frames."""

import cv2
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from data.coords import pixel_centers, sample_at
from tracing.baselines.flow_field import FlowField
from tracing.baselines.gray import gray
from tracing.baselines.zero_motion import all_visible
from tracing.config import Traces

MIN_SIDE_PX = 16  # OpenCV 5 refuses sides under 12 px and crashes on some between 12 and 16


class DIS(FlowField):
    """A classical optical flow. Needs OpenCV and texture; no training, no model, no seed.

    ``enlarge`` blows both frames up (bicubic) by a whole factor before the flow is computed; the
    flow is read at the enlarged point, bilinearly, and divided by the factor. Frames with a side
    under 16 px are always enlarged, by the least factor that reaches 16.

    The number of OpenCV's threads changes nothing; its version does: 4.10 to 4.14 agree with each
    other, 5.0 is elsewhere by up to 14 px of EPE on a pair that moves fast.
    """

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
        return all_visible(points + self._at(frame0, frame1, points).to(points))

    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 height width"]:
        batch, _, height, width = frame0.shape
        if self._factor(frame0) == 1:
            return self.enlarged_flow(frame0, frame1)
        centers = repeat(pixel_centers(height, width), "h w xy -> b (h w) xy", b=batch)
        moved = self._at(frame0, frame1, centers.to(frame0))
        return rearrange(moved, "b (h w) uv -> b uv h w", h=height).contiguous()

    def enlarged_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 enlarged_height enlarged_width"]:
        """Flow on the enlarged pixel grid, its values in pixels of the frames as given."""
        factor = self._factor(frame0)
        flows = []
        for pair in zip(frame0, frame1, strict=True):
            first, second = map(gray, pair)
            if factor > 1:
                first, second = (
                    cv2.resize(g, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
                    for g in (first, second)
                )
            search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            flow = search.calc(first, second, None)
            flows.append(torch.from_numpy(rearrange(flow, "h w uv -> uv h w") / factor))
        return torch.stack(flows).to(frame0)

    def _factor(self, frame: Float[Tensor, "batch 3 height width"]) -> int:
        return max(self.enlarge, -(-MIN_SIDE_PX // min(frame.shape[-2:])))

    def _at(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
    ) -> Float[Tensor, "batch points 2"]:
        flow = self.enlarged_flow(frame0, frame1)
        return sample_at(flow, points * (flow.shape[-1] // frame0.shape[-1]))
