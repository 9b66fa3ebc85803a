"""How to trace (TracerConfig) and what every tracer and baseline answers (Traces)."""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tracing.protocol import ReadOut

Rounding = Literal["none", "truncate_uint8"]
Placement = Literal["patch", "query"]
Direction = Literal["clean_perturbed", "perturbed_clean", "symmetric"]
Peak = Literal["centroid", "argmax"]
Order0 = Literal["changed_last", "random"]
Revealed = Literal["after", "before", "clean"]
Search = Literal["full", "coarse_to_fine"]
Attempt = Literal["bright", "dark", "wide", "none"]  # index in Traces.attempt


@dataclass(frozen=True, kw_only=True)
class TracerConfig:
    """The defaults are our own measured choices; the published protocol is one setting of these."""

    sigma_px: float = 1.0  # px; standard deviation of the Gaussian bump
    amplitude: float = 1.0  # 1.0 = 255 on every channel; negative plants a dark bump
    round: Rounding = "none"  # truncate_uint8: as the published code stores its frames
    placement: Placement = "patch"  # center of the query's patch, or the query itself
    isolated: bool = True  # only codes of the query's own patch may change
    read_out: ReadOut = "all"  # all codes, true preceding codes forced; or each patch's first
    num_masks: int = 8  # random reveal masks to average over
    reveal_ratio: float = 0.25  # share of frame 1's patches shown to the predictor
    direction: Direction = "symmetric"
    peak: Peak = "centroid"  # KL-weighted mean of the 3x3 window round the arg-max, or its center
    occlusion_threshold: float = 0.0  # nats; visible = peak >= threshold
    retry: bool = True  # a tracer that flips no code is planted again: dark, then twice as wide
    order0: Order0 = "changed_last"  # the patches tracers change end frame 0; random: one per mask
    # Revealed patches follow frame 0 and see the tracer (after), precede the changed patches and
    # are seen by them (before), or are those of the clean prediction in both (clean).
    revealed: Revealed = "after"
    search: Search = "full"  # coarse_to_fine: a lattice of patches, then round its highest peaks
    window_px: float | None = None  # only patches this near the query, per axis, can win

    def __post_init__(self) -> None:
        choices = {
            "round": Rounding,
            "placement": Placement,
            "read_out": ReadOut,
            "direction": Direction,
            "peak": Peak,
            "order0": Order0,
            "revealed": Revealed,
            "search": Search,
        }
        for field, literal in choices.items():
            if (got := getattr(self, field)) not in get_args(literal):
                raise ValueError(f"{field}={got!r} is not known; use one of {get_args(literal)}.")
        if not self.sigma_px > 0:
            raise ValueError(f"sigma_px={self.sigma_px} px; use a positive width, such as 1.0.")
        if self.num_masks < 1:
            raise ValueError(f"num_masks={self.num_masks}; use at least one reveal mask.")
        if not 0 <= self.reveal_ratio < 1:
            raise ValueError(
                f"reveal_ratio={self.reveal_ratio} is not in [0, 1); a revealed patch cannot win, "
                "so some must stay hidden (try 0.25)."
            )
        if self.order0 == "random" and self.revealed != "after":
            raise ValueError(
                f"revealed={self.revealed} needs order0=changed_last, got order0=random; revealed "
                "patches can stand before changed ones only where those come last."
            )
        if self.window_px is not None and not self.window_px > 0:
            raise ValueError(f"window_px={self.window_px}; use a positive reach, or null for all.")


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Where the queries of a batch of frame pairs went. Baselines fill ``xy`` and ``visible``."""

    xy: Float[Tensor, "batch points 2"]  # px in frame 1
    visible: Bool[Tensor, "batch points"]
    peak_kl: Float[Tensor, "batch points"] | None = None  # nats (RGB tracer: its own unit)
    maps: Float[Tensor, "batch points rows cols"] | None = None  # mean over masks; 0 if unknown
    flipped_codes: Int[Tensor, "batch points"] | None = None  # codes of frame 0 the tracer changed
    attempt: Int[Tensor, "batch points"] | None = None  # which tracer flipped them: see Attempt
    never_hidden: Bool[Tensor, "batch patches"] | None = None  # revealed in all masks: cannot win
    return_px: Float[Tensor, "batch points"] | None = None  # see ForwardBackward
    # Zoom: share of a crop's patches that were kept from being revealed, mean over scales > 0
    kept_hidden_share: Float[Tensor, "batch points"] | None = None
