"""Which tracer answers: the engine where a model forks, zoom where several scales are asked for."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from tracing.augmentation import Augmented, check_augmentations
from tracing.benchmarks.base import Tracer
from tracing.config import TracerConfig
from tracing.consistency import ForwardBackward
from tracing.engine import EngineConfig, KLEngine
from tracing.ensemble import Zoom, ZoomConfig
from tracing.kl_tracer import KLTracer
from tracing.occlusion import Occlusion, check_occlusion
from tracing.protocol import NextFrameModel
from tracing.rgb_tracer import RGBTracer
from tracing.two_branch import Control


def kl_tracer(
    model: NextFrameModel,
    cfg: TracerConfig | None = None,
    *,
    engine: EngineConfig | None = None,
    zoom: ZoomConfig | None = None,
    augmentations: int = 1,
    max_batch: int = 64,
    control: Control = "none",
) -> Tracer:
    """The KL tracer of a config; ``engine`` is for models that fork, ``max_batch`` for others.

    With several scales it is a ``Zoom``: tell it the model's size by ``at`` where frames have
    another. Every scale asks about ``augmentations`` guises of the frames, see ``Augmented``.

    Raises:
        ValueError: the map is asked for cell by cell, but the model's codes have no cells; or what
            ``Augmented`` refuses.
    """
    if cfg and cfg.placement == "query" and getattr(model, "painted_px", 0) > model.code_px:
        raise ValueError(
            f"placement=query reads the map at code cells, but this model's residual codes speak "
            f"of whole patches of {model.patch_px} px; use placement=patch."
        )

    def one_scale(cfg: TracerConfig) -> Tracer:
        if getattr(model, "forks", False) and cfg.order0 == "changed_last":
            return KLEngine(model, cfg, engine, control)
        return KLTracer(model, cfg, max_batch, control)

    ask = _in_guises(one_scale, augmentations, model.patch_px)
    return _zoomed(ask, model.patch_px, cfg or TracerConfig(), zoom or ZoomConfig())


def rgb_tracer(
    model: NextFrameModel,
    cfg: TracerConfig | None = None,
    *,
    zoom: ZoomConfig | None = None,
    augmentations: int = 1,
    max_batch: int = 64,
) -> Tracer:
    """The RGB tracer of a config; with several scales or augmentations as ``kl_tracer``."""

    def one_scale(cfg: TracerConfig) -> Tracer:
        return RGBTracer(model, cfg, max_batch)

    ask = _in_guises(one_scale, augmentations, model.patch_px)
    return _zoomed(ask, model.patch_px, cfg or TracerConfig(), zoom or ZoomConfig())


def _in_guises(
    one_scale: Callable[[TracerConfig], Tracer], augmentations: int, patch_px: int
) -> Callable[[TracerConfig], Tracer]:
    if augmentations == 1:
        return one_scale
    return lambda cfg: Augmented(one_scale(cfg), cfg, augmentations, patch_px)


def _zoomed(
    one_scale: Callable[[TracerConfig], Tracer],
    patch_px: int,
    cfg: TracerConfig,
    zoom: ZoomConfig,
) -> Tracer:
    if zoom.scales == 1:
        return one_scale(cfg)
    # A window says how far things move; a crop's place has taken care of that.
    masks = zoom.num_masks or cfg.num_masks
    on_crops = replace(cfg, num_masks=masks, window_px=zoom.window_px)
    return Zoom(one_scale(cfg), one_scale(on_crops), patch_px, zoom)


@dataclass(frozen=True, kw_only=True)
class TracerSetup:
    """How an evaluation traces: what its KL and RGB tracers have in common."""

    cfg: TracerConfig = field(default_factory=TracerConfig)
    zoom: ZoomConfig = field(default_factory=ZoomConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    occlusion: Occlusion = "peak_kl"  # what says whether a point is visible, see tracing.occlusion
    return_px: float = 4.0  # px of the frames; threshold of forward_backward and both
    augmentations: int = 1  # guises of the frames that are asked about, up to 8: Augmented
    max_batch: int = 64  # sequences of one forward, for tracers other than the engine

    def __post_init__(self) -> None:
        check_occlusion(self.occlusion)
        check_augmentations(self.augmentations, self.cfg)

    def kl(self, model: NextFrameModel, control: Control = "none") -> Tracer:
        return kl_tracer(
            model,
            self.cfg,
            engine=self.engine,
            zoom=self.zoom,
            augmentations=self.augmentations,
            max_batch=self.max_batch,
            control=control,
        )

    def rgb(self, model: NextFrameModel) -> Tracer:
        how = {"zoom": self.zoom, "augmentations": self.augmentations}
        return rgb_tracer(model, self.cfg, max_batch=self.max_batch, **how)

    def judged(self, tracer: Tracer) -> Tracer:
        """The tracer as it takes frames, with what the occlusion rule needs beside it."""
        if self.occlusion == "peak_kl":
            return tracer
        return ForwardBackward(tracer, self.occlusion, self.return_px)

    def about(self) -> dict:
        """What the results' ``protocol`` says, JSON-ready."""
        said = {"tracer_config": asdict(self.cfg), "zoom": asdict(self.zoom)}
        said |= {"engine": asdict(self.engine), "occlusion_rule": self.occlusion}
        said |= {"augmentations": self.augmentations} if self.augmentations > 1 else {}
        return said | ({} if self.occlusion == "peak_kl" else {"return_px": self.return_px})
