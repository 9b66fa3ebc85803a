"""KL-tracing: where did a point of frame 0 go? START READING HERE.

Plant a small bump (the tracer) in frame 0 at the query. Let a frozen next-frame predictor guess
frame 1 twice, from the clean and from the perturbed frame 0, with the same few patches of frame 1
revealed. Where the two predicted distributions differ most, there the point went.

``trace_point`` is the algorithm, one query and one reveal mask at a time, and ``trace_points`` its
mean over masks: slow and obvious. ``trace`` gives the same answers through the batched KLTracer.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig, Traces
from tracing.kl import kl_map
from tracing.kl_tracer import KLTracer
from tracing.occlusion import is_visible
from tracing.perturbation import add_tracer, count_flipped, isolate, tracer_centers
from tracing.protocol import NextFrameModel
from tracing.readout import answer, hidden_map, to_map
from tracing.reveal import draw_masks

__all__ = ["TracerConfig", "Traces", "trace", "trace_point", "trace_points"]


@torch.no_grad()
def trace_point(
    model: NextFrameModel,
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    query: Float[Tensor, "2"],
    reveal: Bool[Tensor, " patches"],
    order0: Int[Tensor, " patches"],
    order1: Int[Tensor, " patches"],
    cfg: TracerConfig,
) -> tuple[Float[Tensor, "rows cols"], int]:
    """KL map (nats) of one query under one reveal mask, and how many codes the tracer flipped.

    Revealed positions of the map are unspecified.

    Source:
        Kim et al. 2025, arXiv:2507.09082.
    """
    grid = PatchGrid(*frame0.shape[-2:], model.patch_px, model.code_px)

    # 1. Plant the tracer in frame 0.
    center = tracer_centers(query, grid, cfg.placement)
    perturbed = add_tracer(frame0, center, cfg.sigma_px, cfg.amplitude, cfg.round)
    codes0 = model.encode(frame0[None])
    perturbed0 = model.encode(perturbed[None])
    if cfg.isolated:
        perturbed0 = isolate(codes0, perturbed0, grid.patch_index(query[None]), grid)

    # 2. Predict frame 1 twice: same frame 1, same reveal mask, same orders.
    given = (model.encode(frame1[None]), reveal[None], order0[None], order1[None], cfg.read_out)
    clean_logits = model.frame1_logits(codes0, *given)
    perturbed_logits = model.frame1_logits(perturbed0, *given)

    # 3. How far apart are the two predictions, place by place?
    kl = kl_map(clean_logits, perturbed_logits, cfg.direction)
    return to_map(kl[0], grid, cfg), int(count_flipped(codes0, perturbed0))


def trace_points(
    model: NextFrameModel,
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    points: Float[Tensor, "points 2"],
    cfg: TracerConfig | None = None,
    seed: int = 0,
) -> Traces:
    """Trace points one by one, averaging every patch over the masks that hid it; batch axis 1."""
    cfg = cfg or TracerConfig()
    grid = PatchGrid(*frame0.shape[-2:], model.patch_px, model.code_px)
    masks = draw_masks(grid.num_patches, cfg.num_masks, cfg.reveal_ratio, seed).to(frame0.device)
    hidden = hidden_map(masks.reveal, grid, cfg)
    times_hidden = hidden.sum(0)
    maps, flipped = [], []
    for query in points:
        total = torch.zeros(times_hidden.shape, dtype=torch.float64, device=frame0.device)
        for m in range(cfg.num_masks):
            orders = masks.order0[m], masks.order1[m]
            one_map, flips = trace_point(
                model, frame0, frame1, query, masks.reveal[m], *orders, cfg
            )
            total += torch.where(hidden[m], one_map, 0.0)
        maps.append(total / times_hidden.clamp_min(1))
        flipped.append(flips)
    mean_maps = torch.stack(maps)
    xy, peak_kl = answer(mean_maps, times_hidden > 0, points, grid, cfg)
    return Traces(
        xy=xy[None],
        visible=is_visible(peak_kl, cfg.occlusion_threshold)[None],
        peak_kl=peak_kl[None],
        maps=mean_maps[None],
        flipped_codes=torch.tensor(flipped, device=frame0.device)[None],
        never_hidden=masks.reveal.all(0)[None],
    )


def trace(
    model: NextFrameModel,
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    points: Float[Tensor, "points 2"],
    cfg: TracerConfig | None = None,
    seed: int = 0,
) -> Traces:
    """Where points of frame 0, (x, y) px, are in frame 1, and whether they are visible there.

    The result keeps a batch axis of 1. Example, with an exact model of a scene that slides two
    8-px patches to the right and one down (a trained model comes from ``lras.checkpoint.load``):

    >>> import torch
    >>> from tracing.oracle import ShiftOracle
    >>> from tracing.trace import trace
    >>> model = ShiftOracle(shift_cells=(4, 2), patch_px=8, code_px=4)
    >>> frame0, frame1 = model.frames(64, 64, seed=0)
    >>> trace(model, frame0, frame1, torch.tensor([[20.0, 28.0], [9.5, 33.0]])).xy
    tensor([[[36.0000, 36.0000],
             [25.5000, 41.0000]]])
    """
    tracer = KLTracer(model, cfg)
    return tracer(frame0[None], frame1[None], points[None], seed)
