"""An optimizer step that is taken back on the device, where the device finds that it was bad.

The step is taken for a few parameters at a time, so that never more than ``PART_BYTES`` of weights,
and their states, are held twice. Parameters must not depend on one another in the optimizer.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

PART_BYTES = 256 * 2**20
Part = list[tuple[dict[str, Any], list[Tensor]]]  # groups, each with some of its parameters


def parts_of(optimizer: Optimizer, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """The parameters that have a gradient, in parts of so many bytes or one parameter each."""
    part: Part = []
    size = 0
    for group in list(optimizer.param_groups):
        for parameter in list(group["params"]):
            if parameter.grad is None:
                continue
            own = local(parameter).nbytes
            if part and size + own > part_bytes:
                yield part
                part, size = [], 0
            if not part or part[-1][0] is not group:
                part.append((group, []))
            part[-1][1].append(parameter)
            size += own
    if part:
        yield part


class Undone:
    """Within it the optimizer knows the parameters of ``part`` alone; at the end, ``bad`` decides.

    Where ``bad`` is true, weights and states are put back; states that this step made become zeros.
    What lies elsewhere than ``bad`` (step counters on the CPU, plain numbers) is left to the host:
    (state, name, value before).
    """

    def __init__(self, optimizer: Optimizer, part: Part, bad: Bool[Tensor, ""]) -> None:
        self.optimizer, self.part, self.bad = optimizer, part, bad
        self.left_to_host: list[tuple[dict, str, Any]] = []

    @torch.no_grad()
    def __enter__(self) -> "Undone":
        self.groups = list(self.optimizer.param_groups)
        self.parameters = [(group, group["params"]) for group in self.groups]
        self.optimizer.param_groups[:] = [group for group, _ in self.part]
        for group, parameters in self.part:
            group["params"] = parameters
        self.chosen = [p for _, parameters in self.part for p in parameters]
        self.weights = [local(p).clone() for p in self.chosen]
        self.states = [
            {name: _copied(value) for name, value in self.optimizer.state.get(p, {}).items()}
            for p in self.chosen
        ]
        return self

    @torch.no_grad()
    def __exit__(self, *_: Any) -> None:
        self.optimizer.param_groups[:] = self.groups
        for group, parameters in self.parameters:
            group["params"] = parameters
        for parameter, weight, before in zip(self.chosen, self.weights, self.states, strict=True):
            self._put_back(local(parameter), weight)
            state = self.optimizer.state[parameter]
            for name, value in state.items():
                if isinstance(value, Tensor) and local(value).device == self.bad.device:
                    self._put_back(local(value), before.get(name))
                elif isinstance(value, Tensor | int | float) and not isinstance(value, bool):
                    self.left_to_host.append((state, name, before.get(name, 0)))

    def _put_back(self, now: Tensor, before: Tensor | None) -> None:
        before = torch.zeros_like(now) if before is None else before
        torch.where(self.bad, before, now, out=now)


def local(value: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; others as they are."""
    return value.to_local() if isinstance(value, DTensor) else value


def _copied(value: Any) -> Any:
    return local(value).clone() if isinstance(value, Tensor) else value
