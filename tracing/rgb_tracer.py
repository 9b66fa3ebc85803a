"""RGB-difference tracing, the baseline that looks at colors where KL-tracing looks at beliefs."""

from einops import reduce
from jaxtyping import Float
from torch import Tensor

from tracing.config import TracerConfig
from tracing.protocol import NextFrameModel
from tracing.two_branch import Control, TwoBranchTracer


class RGBTracer(TwoBranchTracer):
    """A point went where the EXPECTED RGB of the two predictions differs most.

    Expected RGB is the probability-weighted mean of the decoded codes: the limit of averaging
    infinitely many samples, so no sampling noise handicaps this baseline. The map is the L2 norm
    over channels of the difference, averaged per cell (per patch with placement ``patch``), in
    units of 1.0 = 255; so are ``peak_kl`` and the occlusion threshold. ``direction`` has no say.
    """

    name = "rgb"

    def __init__(
        self,
        model: NextFrameModel,
        cfg: TracerConfig | None = None,
        max_batch: int = 64,
        control: Control = "none",
    ) -> None:
        super().__init__(model, cfg, max_batch, control)
        if self.cfg.read_out != "all":
            raise ValueError(
                f"the RGB tracer decodes whole frames, got read_out={self.cfg.read_out!r}; "
                "use read_out='all'."
            )

    def summarize(
        self, logits: Float[Tensor, "n model_rows model_cols vocab"]
    ) -> Float[Tensor, "n 3 height width"]:
        return self.model.expected_rgb(logits)

    def difference(
        self,
        clean: Float[Tensor, "n 3 height width"],
        perturbed: Float[Tensor, "n 3 height width"],
    ) -> Float[Tensor, "n model_rows model_cols"]:
        distance = (clean.double() - perturbed.double()).norm(dim=1)
        px = self.model.code_px
        return reduce(distance, "n (r y) (c x) -> n r c", "mean", y=px, x=px)
