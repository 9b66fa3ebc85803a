"""AllTracker (Harley et al. 2025), from a clone of its repository, on the two frames."""

import importlib
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.coords import rescale_flow, sample_at
from tracing.baselines.flow_field import FlowField
from tracing.config import Traces
from tracing.crops import resize

REPOSITORY = "https://github.com/aharley/alltracker"
WEIGHTS = "https://huggingface.co/aharley/alltracker/resolve/main/alltracker.pth"
WINDOW_FRAMES = 16  # of the published weights
NUM_UPDATES = 4  # as its evaluation sets it
VISIBLE = 0.6  # least visibility times confidence, as its evaluation sets it


class AllTracker(FlowField):
    """A learned dense point tracker, given two frames. Code and weights are MIT.

    Its repository is no package: it must be cloned; torch.hub fetches the weights. It answers a
    flow at pixel centers, which is read at the points as any flow is.

    Args:
        hub_dir: the clone.
        input_hw: size both frames are stretched to, (height, width) px; None: as they are.
            Its published scores are at 384x512.
        device: its code moves frames to CUDA by itself, and so needs it.

    Raises:
        ValueError: code, weights or the device are not to be had.

    Source:
        https://github.com/aharley/alltracker (nets/alltracker.py, test_dense_on_sparse.py)
    """

    name = "alltracker"

    def __init__(
        self,
        hub_dir: str | Path | None = None,
        input_hw: Sequence[int] | None = (384, 512),
        device: str = "cuda",
    ) -> None:
        if hub_dir is None or not (Path(hub_dir) / "nets" / "alltracker.py").is_file():
            raise ValueError(
                f"tracer=alltracker finds no nets/alltracker.py in hub_dir={hub_dir}; type "
                f"git clone {REPOSITORY} DIR and pass tracer.hub_dir=DIR."
            )
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                "tracer=alltracker needs a CUDA device, where its code moves the frames, and there "
                "is none; choose another here, tracer=raft for example."
            )
        self.shown_hw = None if input_hw is None else (input_hw[0], input_hw[1])
        self.device = device
        network = _network(Path(hub_dir))
        network.load_state_dict(_weights())
        self.network = network.to(device).eval().requires_grad_(False)

    def dense_flow(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 2 height width"]:
        native = (frame0.shape[-2], frame0.shape[-1])
        flow = self._ask(frame0, frame1)[:, :2]
        return rescale_flow(flow, (flow.shape[-2], flow.shape[-1]), native)

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        answer = self._ask(frame0, frame1)
        size = points.new_tensor([frame0.shape[-1], frame0.shape[-2]])
        shown = points.new_tensor([answer.shape[-1], answer.shape[-2]])
        read = sample_at(answer, points * shown / size).to(points)
        return Traces(
            xy=points + read[..., :2] * size / shown, visible=read[..., 2] * read[..., 3] > VISIBLE
        )

    @torch.no_grad()
    def _ask(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch 4 shown_height shown_width"]:
        """u, v in px of the frames as shown, visibility and confidence in [0, 1]."""
        hw = self.shown_hw or (frame0.shape[-2], frame0.shape[-1])
        clips = 255 * torch.stack([resize(frame0, hw), resize(frame1, hw)], dim=1)
        answers = []
        for clip in clips.split(1):  # memory of one pair
            flow, sure, *_ = self.network(clip.to(self.device), iters=NUM_UPDATES)
            answers.append(torch.cat([flow, sure], dim=1).to(frame0))
        return torch.cat(answers)


def _network(clone: Path) -> nn.Module:
    """The network as the clone's code builds it, without weights."""
    sys.path.insert(0, str(clone))
    try:
        module = importlib.import_module("nets.alltracker")
    except ImportError as error:
        raise ValueError(
            f"the code in hub_dir={clone} cannot be imported ({error}); type pip install -r "
            f"{clone}/requirements.txt."
        ) from error
    finally:
        sys.path.remove(str(clone))
    return module.Net(WINDOW_FRAMES)


def _weights() -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(
            WEIGHTS, map_location="cpu", progress=False, weights_only=True
        )["model"]
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"the weights of tracer=alltracker could not be read or downloaded ({reason}); fetch "
            f"{WEIGHTS} and put it into {torch.hub.get_dir()}/checkpoints."
        ) from error
