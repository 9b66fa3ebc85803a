"""KL-tracing, batched. ``trace.py`` is the same algorithm, one point at a time: read that first."""

from jaxtyping import Float
from torch import Tensor

from tracing.kl import kl_map
from tracing.two_branch import TwoBranchTracer


class KLTracer(TwoBranchTracer):
    """A point went where the predicted code distributions differ most: KL in nats.

    Source:
        Kim et al. 2025, arXiv:2507.09082.
    """

    name = "kl"

    def summarize(
        self, logits: Float[Tensor, "n model_rows model_cols vocab"]
    ) -> Float[Tensor, "n model_rows model_cols vocab"]:
        return logits

    def difference(
        self,
        clean: Float[Tensor, "n model_rows model_cols vocab"],
        perturbed: Float[Tensor, "n model_rows model_cols vocab"],
    ) -> Float[Tensor, "n model_rows model_cols"]:
        return kl_map(clean, perturbed, self.cfg.direction)
