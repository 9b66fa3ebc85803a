"""KL-tracing: where did a point of frame 0 go? START READING HERE.

Plant a small bump (the tracer) in frame 0 at the query. Let a frozen next-frame predictor guess
frame 1 twice, from the clean and from the perturbed frame 0, with the same few patches of frame 1
revealed. Where the two predicted distributions differ most, there the point went.

``trace_point`` is the algorithm, one query and one reveal mask at a time, and ``trace_points`` its
mean over masks: slow and obvious. ``trace`` is the fast way: KLEngine where a model can be forked,
with the same answers, else KLTracer, with every mask's own order of frame 0.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig, Traces
from tracing.engine import EngineConfig
from tracing.kl import kl_map
from tracing.layout import make_groups
from tracing.occlusion import is_visible
from tracing.planting import plant
from tracing.protocol import NextFrameModel
from tracing.readout import answer, hidden_map, patches_to_map, to_map
from tracing.reveal import Masks, draw_masks
from tracing.search import within_window
from tracing.tracers import kl_tracer

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

    # 1. Plant the tracer in frame 0 (if that flips no code: a dark one, then a wider one).
    codes0 = model.encode(frame0[None])
    planted = plant(model, frame0[None], codes0, query[None, None], cfg)
    perturbed0 = planted.codes[0]

    # 2. Predict frame 1 twice: same frame 1, same reveal mask, same orders.
    given = (model.encode(frame1[None]), reveal[None], order0[None], order1[None], cfg.read_out)
    clean_logits = model.frame1_logits(codes0, *given)
    perturbed_logits = model.frame1_logits(perturbed0, *given)

    # 3. How far apart are the two predictions, place by place?
    kl = kl_map(clean_logits, perturbed_logits, cfg.direction)
    return to_map(kl[0], grid, cfg), int(planted.flipped)


def trace_points(
    model: NextFrameModel,
    frame0: Float[Tensor, "3 height width"],
    frame1: Float[Tensor, "3 height width"],
    points: Float[Tensor, "points 2"],
    cfg: TracerConfig | None = None,
    seed: int = 0,
    max_group: int = EngineConfig.max_group,
) -> Traces:
    """Trace points one by one, averaging every patch over the masks that hid it; batch axis 1.

    All hidden patches are asked, and revealed ones see the tracer, whatever ``cfg`` says.
    ``max_group`` is that of the engine whose orders of frame 0 are to be followed.
    """
    cfg = cfg or TracerConfig()
    grid = PatchGrid(*frame0.shape[-2:], model.patch_px, model.code_px)
    masks = draw_masks(grid.num_patches, cfg.num_masks, cfg.reveal_ratio, seed).to(frame0.device)
    orders = orders_of_points(model, frame0, points, masks, cfg, grid, max_group)
    hidden = hidden_map(masks.reveal, grid, cfg)
    times_hidden = hidden.sum(0)
    maps, flipped = [], []
    for n, query in enumerate(points):
        total = torch.zeros(times_hidden.shape, dtype=torch.float64, device=frame0.device)
        for m in range(cfg.num_masks):
            given = masks.reveal[m], orders[n, m], masks.order1[m]
            one_map, flips = trace_point(model, frame0, frame1, query, *given, cfg)
            total += torch.where(hidden[m], one_map, 0.0)
        maps.append(total / times_hidden.clamp_min(1))
        flipped.append(flips)
    mean_maps = torch.stack(maps)
    near = patches_to_map(within_window(points[None], grid, cfg.window_px)[0], grid, cfg)
    xy, peak_kl = answer(mean_maps, (times_hidden > 0) & near, points, grid, cfg)
    return Traces(
        xy=xy[None],
        visible=is_visible(peak_kl, cfg.occlusion_threshold)[None],
        peak_kl=peak_kl[None],
        maps=mean_maps[None],
        flipped_codes=torch.tensor(flipped, device=frame0.device)[None],
        never_hidden=masks.reveal.all(0)[None],
    )


def orders_of_points(
    model: NextFrameModel,
    frame0: Float[Tensor, "3 height width"],
    points: Float[Tensor, "points 2"],
    masks: Masks,
    cfg: TracerConfig,
    grid: PatchGrid,
    max_group: int,
) -> Int[Tensor, "points masks patches"]:
    """Order of frame 0 for every point and mask, as the tracers choose it.

    Random: each mask its own. Changed last: the first mask's, with the patches that the tracers of
    the point's group change at its end.
    """
    if cfg.order0 == "random":
        return masks.order0.expand(len(points), -1, -1)
    orders = masks.order0[:1].expand(len(points), len(masks.order0), -1).clone()
    codes0 = model.encode(frame0[None])
    planted = plant(model, frame0[None], codes0, points[None], cfg).codes[0]
    changed = (grid.to_patches(planted) != grid.to_patches(codes0)).any(-1)
    revealed = int(masks.reveal[0].sum())
    for group in make_groups(changed, masks.order0[0], grid, revealed, max_group):
        orders[group.points] = group.order0
    return orders


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
    return kl_tracer(model, cfg)(frame0[None], frame1[None], points[None], seed)
