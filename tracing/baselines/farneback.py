"""Polynomial expansion (Farneback 2003) as OpenCV ships it, on gray frames."""

import cv2
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from tracing.baselines.flow_field import FlowField
from tracing.baselines.gray import gray

# A pyramid of five halvings and windows of 15 px, as public evaluations set it.
SETTING = {
    "pyr_scale": 0.5,
    "levels": 5,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}


class Farneback(FlowField):
    """A classical optical flow, smoother than DIS. Needs OpenCV; no training, no model, no seed."""

    name = "farneback"

    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 height width"]:
        flows = []
        for pair in zip(frame0, frame1, strict=True):
            flow = cv2.calcOpticalFlowFarneback(*map(gray, pair), None, **SETTING)
            flows.append(torch.from_numpy(rearrange(flow, "h w uv -> uv h w").copy()))
        return torch.stack(flows).to(frame0)
