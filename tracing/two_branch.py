"""What the KL and the RGB tracer share: masks, placement, isolation, batching, read-out.

Every row is one (pair, mask, point). The clean prediction of a (pair, mask) is made once and
serves all points; a point whose tracer flips no code has the clean prediction, hence no row.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig, Traces
from tracing.occlusion import is_visible
from tracing.perturbation import (
    add_tracer,
    count_flipped,
    isolate,
    touched_cells,
    tracer_centers,
)
from tracing.protocol import NextFrameModel
from tracing.readout import answer, hidden_map, to_map
from tracing.reveal import Masks, draw_masks

Control = Literal["none", "random_point"]


class TwoBranchTracer:
    """Compares a clean and a perturbed prediction; subclasses say what is compared, and how.

    ``max_batch`` bounds the rows of one forward. ``control="random_point"`` plants every tracer at
    a random seeded point while answering for the query: a tracer that reads anything else than
    its own tracer's place would still do well.
    """

    name = "two_branch"
    needs_model = True

    def __init__(
        self,
        model: NextFrameModel,
        cfg: TracerConfig | None = None,
        max_batch: int = 64,
        control: Control = "none",
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch}; a forward needs at least one row.")
        if control not in get_args(Control):
            raise ValueError(f"control={control!r} is not known; use one of {get_args(Control)}.")
        self.model, self.cfg = model, cfg or TracerConfig()
        self.max_batch, self.control = max_batch, control
        if control != "none":
            self.name = f"{self.name}_{control}"

    def summarize(
        self, logits: Float[Tensor, "n model_rows model_cols vocab"]
    ) -> Float[Tensor, "n ..."]:
        """What is kept of a prediction to be compared."""
        raise NotImplementedError

    def difference(
        self, clean: Float[Tensor, "n ..."], perturbed: Float[Tensor, "n ..."]
    ) -> Float[Tensor, "n model_rows model_cols"]:
        """Difference >= 0 of two summaries on the model's read-out grid, float64."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        check_frames(frame0, frame1)
        cfg, (height, width) = self.cfg, frame0.shape[-2:]
        grid = PatchGrid(height, width, self.model.patch_px, self.model.code_px)
        masks = draw_masks(grid.num_patches, cfg.num_masks, cfg.reveal_ratio, seed)
        masks = masks.to(frame0.device)
        planted = points
        if self.control == "random_point":
            planted = random_points(points, height, width, seed)
        codes0, codes1 = self.model.encode(frame0), self.model.encode(frame1)
        perturbed0 = self._perturbed_codes(frame0, codes0, planted, grid)
        flipped = count_flipped(codes0[:, None].expand_as(perturbed0), perturbed0)
        hidden = hidden_map(masks.reveal, grid, cfg)
        maps = self._mean_maps(codes0, codes1, perturbed0, flipped > 0, masks, hidden, grid)
        xy, peak = answer(maps, hidden.any(0), points, grid, cfg)
        return Traces(
            xy=xy,
            visible=is_visible(peak, cfg.occlusion_threshold),
            peak_kl=peak,
            maps=maps,
            flipped_codes=flipped,
            never_hidden=masks.reveal.all(0).expand(len(frame0), -1),
        )

    def _perturbed_codes(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        codes0: Int[Tensor, "batch code_rows code_cols"],
        planted: Float[Tensor, "batch points 2"],
        grid: PatchGrid,
    ) -> Int[Tensor, "batch points code_rows code_cols"]:
        """Codes of frame 0 with each point's tracer in it."""
        cfg = self.cfg
        if not (num_points := planted.shape[1]):
            return codes0.new_empty(len(frame0), 0, *codes0.shape[1:])
        centers = tracer_centers(planted, grid, cfg.placement).flatten(0, 1)
        source = grid.patch_index(planted).flatten()
        pair = torch.arange(len(frame0), device=frame0.device).repeat_interleave(num_points)
        chunks = []
        for row in torch.arange(len(pair), device=pair.device).split(self.max_batch):
            frames, clean = frame0[pair[row]], codes0[pair[row]]
            with_tracer = add_tracer(frames, centers[row], cfg.sigma_px, cfg.amplitude, cfg.round)
            # subtle: another batch size may round differently and flip a code far from the
            # tracer; codes are local, so where no pixel changed the clean code holds.
            touched = touched_cells(frames, with_tracer, grid)
            codes = torch.where(touched, self.model.encode(with_tracer), clean)
            chunks.append(isolate(clean, codes, source[row], grid) if cfg.isolated else codes)
        return torch.cat(chunks).unflatten(0, (-1, num_points))

    def _mean_maps(
        self,
        codes0: Int[Tensor, "batch code_rows code_cols"],
        codes1: Int[Tensor, "batch code_rows code_cols"],
        perturbed0: Int[Tensor, "batch points code_rows code_cols"],
        changed: Bool[Tensor, "batch points"],
        masks: Masks,
        hidden: Bool[Tensor, "masks rows cols"],
        grid: PatchGrid,
    ) -> Float[Tensor, "batch points rows cols"]:
        """Difference maps, each patch averaged over the masks that hid it; 0 where none did."""
        (batch, points), num_masks = changed.shape, len(hidden)
        total = torch.zeros(
            batch * points, *hidden.shape[1:], dtype=torch.float64, device=codes0.device
        )

        def predict(codes: Tensor, pair: Tensor, mask: Tensor) -> Tensor:
            given = masks.reveal[mask], masks.order0[mask], masks.order1[mask]
            logits = self.model.frame1_logits(codes, codes1[pair], *given, self.cfg.read_out)
            return self.summarize(logits)

        groups = torch.arange(batch * num_masks, device=codes0.device)  # a (pair, mask) each
        for group in groups.split(max(1, self.max_batch // max(1, points))):
            which, point = changed[group // num_masks].nonzero(as_tuple=True)
            if not len(which):
                continue
            clean = predict(codes0[group // num_masks], group // num_masks, group % num_masks)
            for chosen, n in zip(
                which.split(self.max_batch), point.split(self.max_batch), strict=True
            ):
                pair, mask = group[chosen] // num_masks, group[chosen] % num_masks
                perturbed = predict(perturbed0[pair, n], pair, mask)
                maps = to_map(self.difference(clean[chosen], perturbed), grid, self.cfg)
                # Revealed positions hold anything, even NaN: choose, do not multiply.
                maps = torch.where(hidden[mask], maps, 0.0)
                total.index_add_(0, pair * points + n, maps)
        return (total / hidden.sum(0).clamp_min(1)).unflatten(0, (batch, points))


def check_frames(frame0: Tensor, frame1: Tensor) -> None:
    """Refuse frames of different shape, and integer frames, whose range would not be [0, 1]."""
    if frame0.shape != frame1.shape:
        shapes = f"{tuple(frame0.shape)} and {tuple(frame1.shape)}"
        raise ValueError(f"both frames must have one shape, got {shapes}; resize one of them.")
    if not frame0.is_floating_point():
        raise ValueError(f"frames must be float in [0, 1], got {frame0.dtype}; divide by 255.")


def random_points(
    points: Float[Tensor, "batch points 2"], height: int, width: int, seed: int
) -> Float[Tensor, "batch points 2"]:
    """As many points, uniform over the frame, whatever the given ones are."""
    generator = torch.Generator().manual_seed(seed + 2**20)  # not the stream of the masks
    unit = torch.rand(points.shape, generator=generator).to(points)
    return unit * points.new_tensor([width, height])
