"""Arrays that need no model, ours beside theirs: sampling, camera poses, flow."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from lras.grid import PatchGrid
from lras.official.checks import Check, close, exact
from lras.official.pose_flow import (
    RGB_FLOW,
    flow_bins,
    flow_from_bins,
    flow_tokens,
    flow_whole_bins,
    pose_codes,
    pose_tokens,
    pose_vector,
)
from lras.official.sampling import sampling_probabilities

PROBABILITY = 1e-6
Arrays = Mapping[str, np.ndarray]


def check_sampling(theirs: Arrays) -> Iterable[Check]:
    """What a token is drawn from, for every rule in the file; -1 = a rule is off."""
    logits = torch.from_numpy(theirs["logits"])
    for index, (temperature, top_k, top_p) in enumerate(theirs["temp_topk_topp"]):
        ours = sampling_probabilities(
            logits,
            float(temperature),
            None if top_k < 0 else int(top_k),
            None if top_p < 0 else float(top_p),
        )
        name = f"probs_{index}"
        yield close(f"sampling:{name}", ours, theirs[name], PROBABILITY)


def check_poses(theirs: Arrays) -> Iterable[Check]:
    """Pose matrices to vectors, codes and tokens."""
    vector = pose_vector(torch.from_numpy(theirs["pose_mats"]))
    codes = pose_codes(vector)
    tokens, places = pose_tokens(codes)
    yield close("pose_flow_tokens:pose_sixdof_scale", vector, theirs["pose_sixdof_scale"])
    yield exact("pose_flow_tokens:pose_codes", codes, theirs["pose_codes"])
    yield exact("pose_flow_tokens:pose_tokens", tokens, theirs["pose_tokens"])
    yield exact("pose_flow_tokens:pose_positions", places, theirs["pose_positions"])


def check_flow(theirs: Arrays) -> Iterable[Check]:
    """Flow to bins by both rules, back, and packed into groups."""
    values, bins = (torch.from_numpy(theirs[name]) for name in ("flow_values", "flow_q512"))
    yield exact("pose_flow_tokens:flow_q512", flow_bins(values), theirs["flow_q512"])
    yield exact("pose_flow_tokens:flow_q512_new", flow_whole_bins(values), theirs["flow_q512_new"])
    yield close("pose_flow_tokens:flow_deq512", flow_from_bins(bins), theirs["flow_deq512"])
    codes = torch.from_numpy(theirs["flow64_codes"].astype(np.int64))
    rows, cols = codes.shape[-2:]
    grid = PatchGrid(4 * rows, 4 * cols, patch_px=8, code_px=4)
    names = ("flow64_tokens_first8", "flow64_positions_first8")
    order = torch.from_numpy(theirs[names[0]][:, 0]) - RGB_FLOW.flow_pointers[0]
    for name, ours in zip(names, flow_tokens(codes, order, grid), strict=True):
        yield exact(f"pose_flow_tokens:{name}", ours, theirs[name])
