"""Slow twins of multi-scale tracing: one query at a time, crops by slicing, numbers kept by hand.

They share with ``Zoom`` only the drawn masks and which seed a scale draws them from.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tests.reference.slow_tracing import slow_trace_point
from tracing.ensemble import HAIR_PX, SALT
from tracing.reveal import draw_masks


def stretch(frame, hw):
    frame = torch.from_numpy(np.ascontiguousarray(frame))[None]
    if tuple(frame.shape[-2:]) != tuple(hw):
        frame = F.interpolate(frame, size=hw, mode="bilinear", antialias=True).clamp(0, 1)
    return frame[0].numpy()


def crop_round(frame, center, size):
    """Crop of whole pixels round (x, y), moved to stay inside; the crop and its corner (x, y)."""
    corner = []
    for axis in (0, 1):
        side, available = size[1 - axis], frame.shape[2 - axis]
        corner.append(min(max(round(center[axis] - side / 2), 0), available - side))
    x, y = corner
    return frame[:, y : y + size[0], x : x + size[1]], np.array(corner, dtype=float)


def at_one_place(point, other, size, frame):
    """Center of the crop that holds ``point`` where a crop of the other frame holds ``other``.

    Of all whole and half distances of the point from the crop's corner, the nearest to the middle.
    """
    center = []
    for axis in (0, 1):
        side, available = size[1 - axis], frame.shape[2 - axis]
        room = available - side
        lowest, highest = max(point[axis], other[axis]) - room, min(point[axis], other[axis])
        inside = sorted([lowest, side / 2, highest])[1] if lowest <= highest else highest
        whole = round(float(point[axis] - inside - HAIR_PX))
        while whole > point[axis]:  # the point itself stays in its crop
            whole -= 1
        while whole + side < point[axis]:
            whole += 1
        center.append(whole + side / 2)
    return (center,)


def slow_zoom(model, frame0, frame1, query, hw, cfg, scales, factor, seed):
    """Where a query (numpy, px of the frames) is after so many scales of KL-tracing."""
    height, width = frame0.shape[1:]
    to_model = np.array([hw[1] / width, hw[0] / height])
    small = stretch(frame0, hw), stretch(frame1, hw)
    asked = (query * to_model).astype(np.float32)
    estimate = slow_trace_point(model, *small, asked, cfg, seed)[0] / to_model
    for scale in range(1, scales):
        size = round(height * factor**scale), round(width * factor**scale)
        crop0, corner0 = crop_round(frame0, *at_one_place(query, estimate, size, frame0), size)
        crop1, corner1 = crop_round(frame1, *at_one_place(estimate, query, size, frame0), size)
        grow = np.array([hw[1] / size[1], hw[0] / size[0]])
        inside = ((query - corner0) * grow).astype(np.float32)
        xy, heat, flipped = slow_trace_point(
            model, stretch(crop0, hw), stretch(crop1, hw), inside, cfg, seed + scale * SALT
        )
        if flipped and heat.max() > 0:
            estimate = xy / grow + corner1
    return estimate


def stored(frame):
    return np.round(frame * np.float32(255)) / np.float32(255)


def zwm_flow(model, frame0, frame1, query, px, num_masks, reveal_ratio, seed):
    """The published protocol as its text has it, by cells of the model: answer and last peak.

    A revealed patch counts as no difference in the mean over masks. Squares of ``px`` go in.
    """
    height, width = frame0.shape[1:]
    side = min(height, width)
    pair = tuple(stored(stretch(frame, (px, px))) for frame in (frame0, frame1))
    at = [query * [px / width, px / height], None]  # query and estimate, px of what is shown
    corners, grows = [], []  # of frame 1's crops, to come back
    for zoom in range(5):
        if zoom:
            if zoom == 1:
                pair = frame0, frame1
                at = [each * [width / px, height / px] for each in at]
                size = side if height != width else round(0.75 * side)
            else:
                size = round(0.75 * px)
            cuts = [crop_round(f, each, (size, size)) for f, each in zip(pair, at, strict=True)]
            pair = tuple(stored(stretch(crop, (px, px))) for crop, _ in cuts)
            at = [(each - cut[1]) * px / size for each, cut in zip(at, cuts, strict=True)]
            corners.append(cuts[1][1])
            grows.append(px / size)
        zoom_seed = seed + zoom * SALT
        at[1], peak = _largest_change(model, *pair, at[0], num_masks, reveal_ratio, zoom_seed)
    answer = at[1]
    for corner, grow in zip(corners[::-1], grows[::-1], strict=True):
        answer = answer / grow + corner
    return answer, peak


def _largest_change(model, frame0, frame1, query, num_masks, reveal_ratio, seed):
    px, cell, patch = frame0.shape[1], model.code_px, model.patch_px
    bumped = frame0.copy()
    for y in range(px):
        for x in range(px):
            square = (x + 0.5 - query[0]) ** 2 + (y + 0.5 - query[1]) ** 2
            bumped[:, y, x] += np.exp(-square / (2 * 2.0**2))
    bumped = np.floor(np.clip(bumped, 0, 1) * 255 + 1e-3) / 255
    codes0, codes1, planted = (
        model.encode(torch.from_numpy(f.astype(np.float32))[None]) for f in (frame0, frame1, bumped)
    )
    cols = px // patch
    masks = draw_masks(cols**2, num_masks, reveal_ratio, seed)
    total = np.zeros((px // cell, px // cell))
    for reveal, order0, order1 in zip(masks.reveal, masks.order0, masks.order1, strict=True):
        given = codes1, reveal[None], order0[None], order1[None], "all"
        clean, perturbed = (
            model.expected_rgb(model.frame1_logits(codes, *given))[0].double().numpy()
            for codes in (codes0, planted)
        )
        change = np.sqrt(((perturbed - clean) ** 2).sum(0))
        for p in range(cols**2):
            if reveal[p]:
                r, c = divmod(p, cols)
                change[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch] = 0
        total += change.reshape(px // cell, cell, px // cell, cell).mean((1, 3))
    mean = total / num_masks
    row, col = np.unravel_index(mean.argmax(), mean.shape)
    return np.array([(col + 0.5) * cell, (row + 0.5) * cell]), mean.max()
