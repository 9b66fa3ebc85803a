"""Run by torchrun: a probe of sharded weights, and a meeting of ranks of which one has failed."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.test_plain_trainer import SCENE, plain_trainer, predictor_module
from tests.tiny_model import states_equal
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import TracerConfig
from tracing.kl_tracer import KLTracer
from tracing.probe.ranks import answers_of_all_ranks
from tracing.probe.scores import Answer
from tracing.probe.weights import probed_model


def answer(part: int) -> Answer:
    if dist.get_rank() == 1:
        raise ValueError("only here")
    return Answer(part, torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dtype=torch.long))


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    whole, module = predictor_module(), predictor_module()
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for block in module.predictor.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module.predictor, mesh=mesh)
    pairs = synthetic_pairs(SCENE, num_pairs=1 + dist.get_rank(), points_per_pair=2, seed=7)
    trainer = plain_trainer(1)
    with probed_model(trainer, module, "raw") as model:
        equal = states_equal(model, whole.next_frame())
        # Unequal work on the ranks: a model that still gathered weights would hang here.
        KLTracer(model, TracerConfig(num_masks=1))(pairs.frame0, pairs.frame1, pairs.points)
    _, problem = answers_of_all_ranks(range(3), answer)
    sharded = any(isinstance(p, DTensor) for p in module.parameters())
    found = {"sharded_equals_whole": equal, "was_sharded": sharded, "problem": problem}
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
