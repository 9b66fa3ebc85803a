"""LPIPS: how far a picture is from another to the eye of a network trained on photographs.

Optional: the network is torchvision's AlexNet, whose weights (244 MB) are fetched once.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

MIN_PX = 31  # of a side: less, and nothing is left behind AlexNet's second pooling


class PerceptualDistance(Metric):
    """Mean LPIPS (AlexNet) of all frames, 0 = no difference; frames in [0, 1].

    Torchmetrics' own metric in sums: that one keeps a list of batches, over which ranks with
    unequal numbers of batches would wait for one another.

    Raises:
        ValueError: AlexNet's weights are not here and cannot be fetched.

    Source:
        Zhang et al. 2018, arXiv:1801.03924.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        try:
            # normalize: frames are in [0, 1], the network's own range is [-1, 1].
            self.distance = LearnedPerceptualImagePatchSimilarity(
                "alex", reduction="sum", normalize=True
            )
        except (OSError, RuntimeError) as error:
            url = AlexNet_Weights.IMAGENET1K_V1.url
            raise ValueError(
                f"LPIPS needs AlexNet's weights, which cannot be fetched ({error}); put "
                f"{url} into {torch.hub.get_dir()}/checkpoints, or set quantizer_lpips=false."
            ) from error
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        frames: Float[Tensor, "batch 3 height width"],
        decoded: Float[Tensor, "batch 3 height width"],
    ) -> None:
        check_size(frames)
        with torch.autocast(frames.device.type, enabled=False):
            self.total += self.distance(decoded, frames).double()
        self.distance.reset()
        self.count += len(frames)

    def compute(self) -> Float[Tensor, ""]:
        return self.total / self.count


def check_size(frames: Float[Tensor, "batch 3 height width"]) -> None:
    """Raise ValueError where frames are too small for AlexNet."""
    height, width = frames.shape[-2:]
    if min(height, width) < MIN_PX:
        raise ValueError(
            f"LPIPS needs frames of at least {MIN_PX} px, got {height}x{width} px; validate on "
            f"larger ones, or set quantizer_lpips=false."
        )
