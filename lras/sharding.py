"""FSDP2: every process keeps a part of each matrix and gathers a block when it is needed.

Tensor and context parallelism would come in here: ``shard`` is handed a mesh of one dimension,
``data``, and is the only place that says how a predictor is cut. A second dimension of the mesh,
``torch.distributed.tensor.parallel.parallelize_module`` for the linear layers of a block before its
``fully_shard``, and a context-parallel attention in lras/attend.py are what they take.
"""

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lras.next_frame import NextFrame
from lras.predictor import FramePredictor


def shard(predictor: FramePredictor, mesh: DeviceMesh) -> None:
    """Cut the predictor's weights over ``mesh``, in place: block by block, then what is left.

    Tables, norm and head are gathered for the whole of a step, a block only while it computes.
    """
    for block in predictor.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(predictor, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def gathered_weights(module: nn.Module) -> dict[str, Tensor]:
    """Whole weights on the CPU of rank 0, nothing elsewhere. All ranks call it together."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(module, options=options)


def gathered(model: NextFrame) -> NextFrame | None:
    """The model with whole weights on the CPU of rank 0, None elsewhere; a whole one as it is.

    All ranks call it together.
    """
    if not is_sharded(model):
        return model
    weights = gathered_weights(model.predictor)
    if not weights:
        return None
    with torch.device("meta"):
        whole = FramePredictor(model.predictor.cfg)
    whole.load_state_dict(weights, assign=True)
    return NextFrame(model.quantizer, whole)
