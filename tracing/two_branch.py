"""What the KL and the RGB tracer share: masks, placement, isolation, batching, read-out.

Every row is one (pair, mask, point). The clean prediction of a (pair, mask) is made once and
serves all points; a point whose tracer flips no code has the clean prediction, hence no row.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig, Traces
from tracing.inputs import check_question
from tracing.occlusion import is_visible
from tracing.planting import plant
from tracing.protocol import NextFrameModel
from tracing.readout import answer, hidden_map, patches_to_map, to_map
from tracing.reveal import Masks, masks_of_pairs
from tracing.search import within_window

Control = Literal["none", "random_point"]


class TwoBranchTracer(ABC):
    """Compares a clean and a perturbed prediction; subclasses say what is compared, and how.

    ``max_batch`` bounds the rows of one forward. ``control="random_point"`` plants every tracer at
    a random seeded point while answering for the query: a tracer that reads anything else than
    its own tracer's place would still do well.

    Nothing is shared between queries but the clean prediction, so every mask has an order of frame
    0 of its own and all hidden patches are asked: ``cfg`` is changed to say so.
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
        self.model = model
        self.cfg = replace(cfg or TracerConfig(), order0="random", revealed="after", search="full")
        self.max_batch, self.control = max_batch, control
        if control != "none":
            self.name = f"{self.name}_{control}"

    @abstractmethod
    def summarize(
        self, logits: Float[Tensor, "n model_rows model_cols vocab"]
    ) -> Float[Tensor, "n ..."]:
        """What is kept of a prediction to be compared."""

    @abstractmethod
    def difference(
        self, clean: Float[Tensor, "n ..."], perturbed: Float[Tensor, "n ..."]
    ) -> Float[Tensor, "n model_rows model_cols"]:
        """Difference >= 0 of two summaries on the model's read-out grid, float64."""

    @torch.no_grad()
    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
        keep_hidden: Bool[Tensor, "batch patches"] | None = None,
        near: Float[Tensor, "batch points 2"] | None = None,
    ) -> Traces:
        """Trace; patches of ``keep_hidden`` are never revealed.

        ``near`` is what ``cfg.window_px`` is round: by default the queries themselves.
        """
        check_question(frame0, frame1, points)
        cfg, (height, width) = self.cfg, frame0.shape[-2:]
        grid = PatchGrid(height, width, self.model.patch_px, self.model.code_px)
        masks = masks_of_pairs(
            len(frame0), grid.num_patches, cfg.num_masks, cfg.reveal_ratio, seed, keep_hidden
        ).to(frame0.device)
        where = points
        if self.control == "random_point":
            where = random_points(points, height, width, seed)
        codes0, codes1 = self.model.encode(frame0), self.model.encode(frame1)
        planted = plant(self.model, frame0, codes0, where, cfg, self.max_batch)
        hidden = hidden_map(masks.reveal, grid, cfg)
        maps = self._mean_maps(codes0, codes1, planted.codes, planted.flipped > 0, masks, grid)
        near = patches_to_map(
            within_window(points if near is None else near, grid, cfg.window_px), grid, cfg
        )
        xy, peak = answer(maps, hidden.any(1)[:, None] & near, points, grid, cfg)
        return Traces(
            xy=xy,
            visible=is_visible(peak, cfg.occlusion_threshold),
            peak_kl=peak,
            maps=maps,
            flipped_codes=planted.flipped,
            attempt=planted.attempt,
            never_hidden=masks.reveal.all(1),
        )

    def _mean_maps(
        self,
        codes0: Int[Tensor, "batch code_rows code_cols"],
        codes1: Int[Tensor, "batch code_rows code_cols"],
        perturbed0: Int[Tensor, "batch points code_rows code_cols"],
        changed: Bool[Tensor, "batch points"],
        masks: Masks,
        grid: PatchGrid,
    ) -> Float[Tensor, "batch points rows cols"]:
        """Difference maps, each patch averaged over the masks that hid it; 0 where none did."""
        hidden = hidden_map(masks.reveal, grid, self.cfg)
        (batch, points), num_masks = changed.shape, hidden.shape[1]
        total = torch.zeros(
            batch * points, *hidden.shape[2:], dtype=torch.float64, device=codes0.device
        )

        def predict(codes: Tensor, pair: Tensor, mask: Tensor) -> Tensor:
            at = pair, mask
            given = masks.reveal[at], masks.order0[at], masks.order1[at]
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
                maps = torch.where(hidden[pair, mask], maps, 0.0)
                total.index_add_(0, pair * points + n, maps)
        return total.unflatten(0, (batch, points)) / hidden.sum(1)[:, None].clamp_min(1)


def random_points(
    points: Float[Tensor, "batch points 2"], height: int, width: int, seed: int
) -> Float[Tensor, "batch points 2"]:
    """As many points, uniform over the frame, whatever the given ones are."""
    generator = torch.Generator().manual_seed(seed + 2**20)  # not the stream of the masks
    unit = torch.rand(points.shape, generator=generator).to(points)
    return unit * points.new_tensor([width, height])
