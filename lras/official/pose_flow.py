"""Camera poses and flow as tokens, in the published layouts.

Pose: one pointer and seven contents. Flow as numbers: 64x64 vectors in 512 bins per component, nine
tokens per patch. Flow as codes of a flow quantizer: five tokens per patch, like colors. Where the
ids of each kind start is said by a model's ``cfg.ranges``; here are those of the released classes.
"""

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from lras.vocab import Range, TokenRanges

_RGB = {
    "contents": (0, 65_536),
    "pointers0": (65_536, 66_560),
    "pointers1": (66_560, 67_584),
    "places0": (0, 5_120),
    "places1": (5_120, 10_240),
}
# RGB+Flow (7B): 512 bins, shared by both components.
RGB_FLOW = TokenRanges(
    **_RGB, flow=(67_584, 68_096), flow_pointers=(68_096, 69_120), flow_places=(10_240, 19_456)
)
# Camera pose + quantized flow (1B and 7B).
POSE_FLOW = TokenRanges(
    **_RGB,
    flow=(67_584, 100_352),
    flow_pointers=(100_352, 101_376),
    flow_places=(10_240, 22_528),
    pose=(101_376, 111_376),
    pose_pointer=(111_376, 111_377),
    pose_places=(22_528, 22_536),
)
FLOW_BINS, FLOW_LIMIT_PX = 512, 256.0
ROTATION_STEP_DEG, UNIT_STEP = 0.1, 0.001
ROTATION_ZERO, DIRECTION_ZERO, LENGTH_ZERO = 1801, 1001, 1  # codes of 0


# --- camera pose --------------------------------------------------------------------------------


def relative_pose(
    world_from_camera0: Float[Tensor, "*batch 4 4"], world_from_camera1: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch 4 4"]:
    """camera0_from_camera1: the pose that is given to the model."""
    return torch.linalg.solve(world_from_camera0, world_from_camera1)


def pose_vector(camera0_from_camera1: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7"]:
    """Axis-angle (3, degrees), direction of the translation (3), its length (1); float64."""
    matrices = camera0_from_camera1.double().cpu().reshape(-1, 4, 4)
    turns = [cv2.Rodrigues(matrix[:3, :3].numpy())[0][:, 0] for matrix in matrices]
    degrees = torch.from_numpy(np.rad2deg(np.array(turns).reshape(-1, 3)))
    shift = matrices[:, :3, 3]
    length = shift.norm(dim=-1, keepdim=True)
    vector = torch.cat([degrees, shift / (length + 1e-6), length], dim=-1)
    return vector.view(*camera0_from_camera1.shape[:-2], 7)


def pose_matrix(vector: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of ``pose_vector``, float64."""
    flat = vector.double().cpu().reshape(-1, 7)
    matrices = torch.eye(4, dtype=torch.float64).repeat(len(flat), 1, 1)
    for matrix, row in zip(matrices, flat, strict=True):
        matrix[:3, :3] = torch.from_numpy(cv2.Rodrigues(np.deg2rad(row[:3].numpy()))[0])
    matrices[:, :3, 3] = flat[:, 3:6] * flat[:, 6:]
    return matrices.view(*vector.shape[:-1], 4, 4)


def pose_codes(vector: Float[Tensor, "*batch 7"]) -> Int[Tensor, "*batch 7"]:
    """Steps of 0.1 degree, 0.001 of a unit vector, and 0.001 of length; halves round to even."""
    return (vector / _pose_steps(vector)).round().long() + _pose_zeros(vector)


def pose_from_codes(codes: Int[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 7"]:
    """Pose vector at the middle of the codes' steps, float64."""
    steps = _pose_steps(torch.empty(0, dtype=torch.float64, device=codes.device))
    return (codes - _pose_zeros(codes)) * steps


def pose_tokens(
    codes: Int[Tensor, "*batch 7"], ranges: TokenRanges = POSE_FLOW
) -> tuple[Int[Tensor, "*batch 8"], Int[Tensor, "*batch 8"]]:
    """Tokens (a pointer, then the contents) and their rows of the slot table.

    Raises:
        ValueError: the model has no pose tokens, or a code leaves the range (10 units are too far).
    """
    first, end = _known(ranges.pose, "pose")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < end - first:
        raise ValueError(
            f"pose codes span {int(codes.min())} to {int(codes.max())}, the model knows 0 to "
            f"{end - first - 1}; scale the scene so that translations stay under "
            f"{(end - first - 1) * UNIT_STEP:g}."
        )
    pointer = codes.new_full((*codes.shape[:-1], 1), ranges.pose_pointer[0])
    tokens = torch.cat([pointer, codes + first], dim=-1)
    places = torch.arange(8, device=codes.device) + ranges.pose_places[0]
    return tokens, places.expand_as(tokens)


def _pose_steps(like: Tensor) -> Tensor:
    return like.new_tensor([ROTATION_STEP_DEG] * 3 + [UNIT_STEP] * 4)


def _pose_zeros(like: Tensor) -> Tensor:
    zeros = [ROTATION_ZERO] * 3 + [DIRECTION_ZERO] * 3 + [LENGTH_ZERO]
    return torch.tensor(zeros, device=like.device)


# --- flow ---------------------------------------------------------------------------------------


def flow_bins(flow: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Bins 0 to 511 of components in px of a 256-px frame; clipped to 256 px either way.

    No bin's middle is 0: no motion becomes 256, read back as 0.5 px.
    """
    clipped = flow.clamp(-FLOW_LIMIT_PX, FLOW_LIMIT_PX)
    return ((clipped + FLOW_LIMIT_PX) / (2 * FLOW_LIMIT_PX) * (FLOW_BINS - 1)).round().long()


def flow_from_bins(bins: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Components in px at the middle of each of ``flow_bins``' bins, float32."""
    return bins.float() / (FLOW_BINS - 1) * (2 * FLOW_LIMIT_PX) - FLOW_LIMIT_PX


def flow_whole_bins(flow: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The other published rule: whole pixels, halves to even, 256 for no motion."""
    return (flow + FLOW_LIMIT_PX).round().long().clamp(0, FLOW_BINS - 1)


def flow_from_whole_bins(bins: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Inverse of ``flow_whole_bins``, float32."""
    return bins.float() - FLOW_LIMIT_PX


def flow_tokens(
    bins: Int[Tensor, "2 code_rows code_cols"],
    order: Int[Tensor, " kept"],
    grid: PatchGrid,
    ranges: TokenRanges = RGB_FLOW,
) -> tuple[Int[Tensor, "kept tokens"], Int[Tensor, "kept tokens"]]:
    """Groups of the patches in ``order``: a pointer, then (u, v) of every cell, row-major.

    Returns tokens and their rows of the slot table.
    """
    contents = rearrange(grid.to_patches(bins), "two p k -> p (k two)")
    return _flow_groups(contents, order, ranges)


def flow_code_tokens(
    codes: Int[Tensor, "code_rows code_cols"],
    order: Int[Tensor, " kept"],
    grid: PatchGrid,
    ranges: TokenRanges = POSE_FLOW,
) -> tuple[Int[Tensor, "kept tokens"], Int[Tensor, "kept tokens"]]:
    """The same for codes of a flow quantizer, one per cell (its input is flow / 20 px)."""
    return _flow_groups(grid.to_patches(codes), order, ranges)


def _flow_groups(
    contents: Int[Tensor, "patches contents"], order: Int[Tensor, " kept"], ranges: TokenRanges
) -> tuple[Int[Tensor, "kept tokens"], Int[Tensor, "kept tokens"]]:
    first, end = _known(ranges.flow, "flow")
    if contents.numel() and not 0 <= int(contents.min()) <= int(contents.max()) < end - first:
        raise ValueError(
            f"flow codes span {int(contents.min())} to {int(contents.max())}, the model knows 0 to "
            f"{end - first - 1}; encode the flow with the quantizer of this model."
        )
    pointer = order[:, None] + ranges.flow_pointers[0]
    tokens = torch.cat([pointer, contents[order] + first], dim=-1)
    slots = tokens.shape[1]
    slot = torch.arange(slots, device=order.device)
    return tokens, ranges.flow_places[0] + slots * order[:, None] + slot


def _known(pair: Range | None, kind: str) -> Range:
    if pair is None:
        raise ValueError(f"this model has no {kind} tokens; use one that was trained with {kind}.")
    return pair
