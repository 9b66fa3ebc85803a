"""``trainer=fsdp``: Lightning's ModelParallelStrategy, with our sharding and whole checkpoints.

A checkpoint is a folder that all processes write: under another name first, brought to the disk,
listed with checksums, and renamed when the last one is done. It is read by any number of processes;
so is a .ckpt file of one process or of DDP.
"""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from data.index import sync_folder
from doors.checked_files import PARTIAL, digests_of, remove, seal_folder
from doors.checkpoints import say_unwritten
from lras.sharded_files import INDEX, META, is_sharded
from lras.sharding import shard

log = logging.getLogger("train")


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes. Weights are float32 and drawn as one process draws them."""

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """As Lightning's, which would have the module shard itself.

        Raises:
            ValueError: what is trained is no predictor, or its weights are to be averaged.
        """
        predictor = getattr(self.lightning_module, "predictor", None)
        if predictor is None:
            raise ValueError(
                "trainer=fsdp shards a predictor, but no quantizer is named, so one would be "
                "trained first; train it with trainer=ddp or on one device, and pass quantizer=RUN."
            )
        if any(isinstance(each, WeightAveraging) for each in trainer.callbacks):
            raise ValueError(
                "callbacks/ema keeps a whole second model and trainer=fsdp none; leave ema out of "
                "callbacks, or use trainer=ddp."
            )
        self.accelerator.setup(trainer)
        shard(predictor, self.device_mesh["data_parallel"])
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
            _optimizers_to_device(self.optimizers, self.root_device)
        self.setup_precision_plugin()

    # --- checkpoints ------------------------------------------------------------------------

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """All ranks together; if any of them cannot write, rank 0 says so and all go on."""
        path = Path(self.broadcast(str(filepath)))
        partial = path.with_name(path.name + PARTIAL)
        if self.is_global_zero:
            remove(partial)
        self.barrier()
        sums, problem = {}, None
        try:
            super().save_checkpoint(checkpoint, partial)
            sums = digests_of(self._own_files(partial))
        except (OSError, RuntimeError, CheckpointException) as error:
            problem = str(error).strip().splitlines()[-1]
        told: list = [None] * self.world_size
        dist.all_gather_object(told, (sums, problem))
        problems = [said for _, said in told if said]
        if self.is_global_zero:
            if problems:
                say_unwritten(path, OSError(problems[0]))
                remove(partial)
            else:
                seal_folder(partial, {name: each for own, _ in told for name, each in own.items()})
                remove(path)
                partial.replace(path)
                sync_folder(path.parent)
        self.barrier()

    def _own_files(self, folder: Path) -> list[Path]:
        own = sorted(folder.glob(f"__{self.global_rank}_*.distcp"))
        return [*own, folder / META, folder / INDEX] if self.is_global_zero else own

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = Path(self.broadcast(str(checkpoint_path)))
        if is_sharded(path):
            return super().load_checkpoint(path, weights_only=weights_only)
        # subtle: Lightning takes the states of a plain optimizer to stand in the order of the
        # module's parameters, but they stand in the order of the optimizer's groups.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        states = checkpoint.get("optimizer_states", [])
        for optimizer, state in zip(self.optimizers, states, strict=True):
            named = self._named(optimizer, state)
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return checkpoint

    def remove_checkpoint(self, filepath: Any) -> None:
        if self.is_global_zero:
            remove(Path(filepath))

    def _named(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """A plain optimizer's state by the full names of its parameters."""
        known = {parameter: name for name, parameter in self.model.named_parameters()}
        groups = [[known[p] for p in group["params"]] for group in optimizer.param_groups]
        names = [name for group in groups for name in group]
        return {
            "state": {names[place]: values for place, values in state["state"].items()},
            "param_groups": [
                old | {"params": group}
                for old, group in zip(state["param_groups"], groups, strict=True)
            ],
        }
