"""RAFT (Teed and Deng 2020) as torchvision ships it, supervised by optical flow."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tracing.baselines.flow_field import FlowField
from tracing.baselines.padding import pad_frames

MODELS = ("raft_large", "raft_small")
MULTIPLE_PX, LEAST_PX = 8, 128  # what torchvision's RAFT takes
Network = Callable[..., Sequence[Tensor]]  # (frame0, frame1 in [-1, 1], updates) -> flows


class RAFT(FlowField):
    """A learned optical flow. Weights come from download.pytorch.org when it is first built.

    Args:
        weights: name of torchvision's weights. C_T: trained on FlyingChairs and FlyingThings3D
            alone; SKHT: on Sintel, KITTI and HD1K too, so that scores there are of training data.
            None: untrained, for tests.
        num_updates: of the recurrent refinement.

    Raises:
        ValueError: no such model or weights, or the weights are not to be had.

    Source:
        https://docs.pytorch.org/vision/stable/models/raft.html
    """

    def __init__(
        self, model: str = "raft_large", weights: str | None = "C_T_V2", num_updates: int = 12
    ) -> None:
        if model not in MODELS:
            raise ValueError(f"model={model!r} is not known; choose one of {', '.join(MODELS)}.")
        self.name, self.num_updates = model, num_updates
        self.network: Network = _load(model, weights)

    @torch.no_grad()
    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 height width"]:
        if isinstance(self.network, torch.nn.Module):
            self.network.to(frame0.device)
        flows = []
        for pair in zip(frame0.split(1), frame1.split(1), strict=True):  # memory of one pair
            (first, (rows, cols)), (second, _) = (
                pad_frames(frame * 2 - 1, MULTIPLE_PX, LEAST_PX) for frame in pair
            )
            flow = self.network(first, second, num_flow_updates=self.num_updates)[-1]
            flows.append(flow[..., rows, cols])
        return torch.cat(flows).to(frame0)


def _load(model: str, weights: str | None) -> torch.nn.Module:
    from torchvision.models import get_model, get_model_weights

    known = get_model_weights(model)
    if weights is not None and weights not in known.__members__:
        names = ", ".join(known.__members__)
        raise ValueError(f"weights={weights!r} of {model} are not known; choose one of {names}.")
    chosen = None if weights is None else known[weights]
    try:
        network = get_model(model, weights=chosen, progress=False)
    except (OSError, RuntimeError) as error:  # no network, or a broken file
        url = chosen.url if chosen else ""
        raise ValueError(
            f"the weights {weights} of {model} could not be read or downloaded "
            f"({_first_line(error)}); fetch {url} and put it into "
            f"{torch.hub.get_dir()}/checkpoints, or choose tracer=farneback, which needs none."
        ) from error
    return network.eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
