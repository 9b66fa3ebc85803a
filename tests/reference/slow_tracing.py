"""Slow twin of the tracers: plain loops and numpy, two full forwards per point and mask.

Shares with them only the drawn masks, so that both look at the same reveals and orders.
"""

import math

import numpy as np
import torch

from tracing.reveal import draw_masks


class RandomModel:
    """An untrained model in which everything given matters: reveals, true codes, both orders."""

    def __init__(self, patch_px, code_px, num_codes=24, seed=0):
        self.patch_px, self.code_px, self.num_codes = patch_px, code_px, num_codes
        generator = torch.Generator().manual_seed(seed)
        self.side = patch_px // code_px
        self.table0, self.table1, self.mix = (
            torch.randn(num_codes, 8, generator=generator) for _ in range(3)
        )
        self.forwards = 0

    def encode(self, frames):
        cells = torch.nn.functional.avg_pool2d(frames.mean(1, keepdim=True), self.code_px)
        return (cells[:, 0] * (self.num_codes - 1)).round().long()

    def frame1_logits(self, codes0, codes1, reveal, order0, order1, read_out):
        self.forwards += len(codes0)
        patches = reveal.shape[1]
        rank = (order0.argsort(-1) + 2 * order1.argsort(-1)).float() / patches
        cols = codes0.shape[2] // self.side

        def on_cells(per_patch):
            grid = per_patch.unflatten(1, (-1, cols))
            return grid.repeat_interleave(self.side, 1).repeat_interleave(self.side, 2)[..., None]

        shown = on_cells(reveal).float() * self.table1[codes1]
        past = self.table0[codes0]
        smooth = sum(w * past.roll((a, b), (1, 2)) for w, a, b in [(1, 1, 2), (0.5, 0, 1)])
        context = smooth + shown.mean((1, 2), keepdim=True) * (1 + on_cells(rank))
        logits = torch.tanh(context) @ self.mix.T
        logits = logits.masked_fill(on_cells(reveal), torch.nan)
        return logits if read_out == "all" else logits[:, :: self.side, :: self.side]

    def expected_rgb(self, logits):
        gray = logits.softmax(-1) @ torch.linspace(0, 1, self.num_codes)
        pixels = gray.repeat_interleave(self.code_px, 1).repeat_interleave(self.code_px, 2)
        return torch.stack([pixels, 0.5 * pixels, pixels.square()], 1)


def _kl(p_logits, q_logits):
    p = p_logits - p_logits.max()
    q = q_logits - q_logits.max()
    p, q = p - math.log(np.exp(p).sum()), q - math.log(np.exp(q).sum())
    return float((np.exp(p) * (p - q)).sum())


def _plant(frame, x0, y0, cfg):
    out = frame.astype(np.float64)
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            square = (x + 0.5 - x0) ** 2 + (y + 0.5 - y0) ** 2
            out[:, y, x] += cfg.amplitude * math.exp(-square / (2 * cfg.sigma_px**2))
    return np.clip(out, 0, 1).astype(np.float32)


def slow_trace_point(model, frame0, frame1, query, cfg, seed):
    """Answer (x, y), averaged map and flipped codes of one query; frames (3, H, W), all numpy."""
    patch, cell, side = model.patch_px, model.code_px, model.patch_px // model.code_px
    height, width = frame0.shape[1:]
    rows, cols = height // patch, width // patch
    source_row, source_col = int(query[1] // patch), int(query[0] // patch)
    source_xy = np.array([(source_col + 0.5) * patch, (source_row + 0.5) * patch])
    x0, y0 = source_xy if cfg.placement == "patch" else query
    codes0, codes1, planted = (
        model.encode(torch.from_numpy(f)[None])[0]
        for f in (frame0, frame1, _plant(frame0, x0, y0, cfg))
    )
    if cfg.isolated:
        kept = codes0.clone()
        a, b = source_row * side, source_col * side
        kept[a : a + side, b : b + side] = planted[a : a + side, b : b + side]
        planted = kept

    by_cell = cfg.read_out == "all" and cfg.placement == "query"
    step = side if by_cell else 1  # map positions along a patch
    sums, counts = np.zeros((rows * step, cols * step)), np.zeros((rows * step, cols * step))
    masks = draw_masks(rows * cols, cfg.num_masks, cfg.reveal_ratio, seed)
    for reveal, order0, order1 in zip(masks.reveal, masks.order0, masks.order1, strict=True):
        given = (codes1[None], reveal[None], order0[None], order1[None], cfg.read_out)
        clean, perturbed = (
            model.frame1_logits(codes[None], *given)[0].double().numpy()
            for codes in (codes0, planted)
        )
        for p in range(rows * cols):
            if reveal[p]:
                continue
            r, c = divmod(p, cols)
            inside = range(side if cfg.read_out == "all" else 1)
            kl = np.zeros((len(inside), len(inside)))
            for i in inside:
                for j in inside:
                    at = (r * len(inside) + i, c * len(inside) + j)
                    forth, back = _kl(clean[at], perturbed[at]), _kl(perturbed[at], clean[at])
                    by_direction = {"clean_perturbed": forth, "perturbed_clean": back}
                    kl[i, j] = by_direction.get(cfg.direction, (forth + back) / 2)
            block = np.s_[r * step : (r + 1) * step, c * step : (c + 1) * step]
            sums[block] += kl if by_cell else kl.mean()
            counts[block] += 1
    heat = sums / np.maximum(counts, 1)

    def place(r, c):
        if by_cell or (cfg.placement == "query" and cfg.read_out == "first"):
            pitch = cell if by_cell else patch
            return np.array([c * pitch + cell / 2, r * pitch + cell / 2])
        return np.array([(c + 0.5) * patch, (r + 0.5) * patch])

    can_win = [(r, c) for r, c in np.ndindex(*heat.shape) if counts[r, c]]
    top = max(can_win, key=lambda rc: heat[rc])
    peak = place(*top)
    if cfg.peak == "centroid":
        near = [rc for rc in can_win if abs(rc[0] - top[0]) <= 1 and abs(rc[1] - top[1]) <= 1]
        if weight := sum(heat[rc] for rc in near):
            peak = sum(heat[rc] * place(*rc) for rc in near) / weight
    if heat[top] == 0:
        xy = np.array(query)
    else:
        xy = peak if cfg.placement == "query" else np.array(query) + peak - source_xy
    return xy, heat, int((codes0 != planted).sum())
