"""Any optical flow of PTLFlow (Morimitsu), a collection of published models, by its name."""

import difflib
import importlib.util

import torch
from jaxtyping import Float
from torch import Tensor

from tracing.baselines.flow_field import FlowField
from tracing.baselines.padding import pad_frames

LEAST_PX = 128  # correlation pyramids of four levels take no less; PTLFlow pads to strides itself


class PTLFlow(FlowField):
    """A learned optical flow; PTLFlow downloads its weights when it is first built.

    Args:
        model: a name as ``ptlflow.get_model_names()`` lists them: raft, sea_raft_m, dpflow, ...
        ckpt: name of published weights (things, sintel, kitti, ...) or a file.

    Raises:
        ValueError: PTLFlow is not installed, knows no such model or weights, or cannot fetch them.

    Source:
        https://ptlflow.readthedocs.io (version 0.4: frames are BGR in [0, 1])
    """

    def __init__(self, model: str | None = None, ckpt: str | None = None) -> None:
        if importlib.util.find_spec("ptlflow") is None:
            raise ValueError("tracer=ptlflow needs PTLFlow; type: pip install ptlflow.")
        import ptlflow

        known = ptlflow.get_model_names()
        if model not in known:
            near = difflib.get_close_matches(model or "", known, n=3, cutoff=0.5) or ["raft"]
            raise ValueError(
                f"PTLFlow has no model {model!r}; pass tracer.model=NAME, for example "
                f"{', '.join(near)}."
            )
        published = getattr(ptlflow.get_model_reference(model), "pretrained_checkpoints", {})
        if ckpt is None:
            raise ValueError(
                f"{model} would be untrained without weights; pass tracer.ckpt=NAME, one of "
                f"{', '.join(published) or 'none that are published'}, or a file."
            )
        try:
            network = ptlflow.get_model(model, ckpt_path=ckpt)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            file = published.get(ckpt, "weights of that model")
            raise ValueError(
                f"PTLFlow cannot load {model} with tracer.ckpt={ckpt} ({reason}); fetch {file} and "
                "pass tracer.ckpt=FILE."
            ) from error
        self.name = f"ptlflow_{model}"
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 height width"]:
        self.network.to(frame0.device)
        flows = []
        for pair in zip(frame0.split(1), frame1.split(1), strict=True):  # memory of one pair
            (first, (rows, cols)), (second, _) = (pad_frames(frame, 1, LEAST_PX) for frame in pair)
            bgr = torch.stack([first, second], dim=1).flip(2)
            flow = self.network({"images": bgr})["flows"][:, 0]
            flows.append(flow[..., rows, cols])
        return torch.cat(flows).to(frame0)
