"""Run by torchrun: steps of Muon on sharded weights against the same steps on whole ones."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from lras.config import PredictorConfig
from lras.optim import muon
from lras.predictor import FramePredictor
from lras.sharding import gathered_weights, shard

STEPS = 3


def predictor() -> FramePredictor:
    torch.manual_seed(0)
    size = {"image_size": 16, "num_codes": 32, "dim": 32, "num_heads": 2, "num_layers": 2}
    return FramePredictor(PredictorConfig(**size))


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    whole, sharded = predictor(), predictor()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    shard(sharded, dist.init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizers = muon(whole), muon(sharded)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = dist.tensor.distribute_tensor(
                one.grad, other.device_mesh, other.placements
            )
        for optimizer in optimizers:
            optimizer.step()
    found = gathered_weights(sharded)
    if dist.get_rank() == 0:
        worst = {}
        for name, value in whole.named_parameters():
            moved, other = value.detach() - before[name], found[name] - before[name]
            worst[name] = float((moved - other).norm() / moved.norm())
        (folder / "worst.json").write_text(json.dumps(worst))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
