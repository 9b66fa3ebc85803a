"""``schedule.decay_from=``: a decay of its own from a run whose learning rate has not fallen yet.

One stable run then serves trainings of many lengths: each branch goes on from one of its
checkpoints (weights, optimizer, place in the data) in a folder of its own.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from data.index import write_whole
from doors.resume import step_of
from doors.run_folder import LAST, has_checkpoint
from lras.sharded_files import is_sharded, read_meta

BRANCH = "branch.json"


@dataclass(frozen=True)
class Branch:
    """Where a decay begins, and after how many optimizer steps it ends, counted from step 0."""

    checkpoint: Path
    start: int
    end: int

    def keep(self, out: Path) -> None:
        """Note it in the run's folder: the trunk may go on, or go away."""
        write_whole(out / BRANCH, json.dumps(asdict(self), indent=1, default=str).encode())


def kept_branch(out: Path) -> Branch | None:
    """The branch that the run in ``out`` began as; None where it began otherwise."""
    if not (out / BRANCH).is_file():
        return None
    note = json.loads((out / BRANCH).read_text())
    return Branch(Path(note["checkpoint"]), note["start"], note["end"])


def branch_of(cfg: DictConfig, natural: int | None) -> Branch | None:
    """The branch that ``cfg`` asks for anew, whatever ``trainer.max_steps`` says.

    ``natural``: steps after which its data end.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the rate has fallen there already, or the settings do not go together.
    """
    source, steps = cfg.schedule.decay_from, cfg.schedule.decay_steps
    if source is None and steps is None:
        return None
    if source is None or not steps or steps < 1 or cfg.init_from:
        raise ValueError(
            f"got schedule.decay_from={source} and schedule.decay_steps={steps}; a decay branch "
            f"needs both, and no init_from."
        )
    path = Path(source) / LAST if has_checkpoint(Path(source)) else Path(source)
    path = path.resolve()  # ``last`` is a link, and moves as the trunk goes on
    if not (path.is_file() or is_sharded(path)):
        raise FileNotFoundError(
            f"schedule.decay_from: there is no checkpoint {path}; name a run or a .ckpt."
        )
    start = step_of(path)
    plain = {"map_location": "cpu", "weights_only": True, "mmap": True}
    state = read_meta(path) if is_sharded(path) else torch.load(path, **plain)
    (rates,) = state["lr_schedulers"]
    if rates["_last_lr"] != rates["base_lrs"]:
        raise ValueError(
            f"at step {start} of {path} the learning rate stands at {rates['_last_lr']} of "
            f"{rates['base_lrs']}; branch off a checkpoint of the stable part (train it with "
            f"schedule.decay_share=0)."
        )
    if natural and start + steps > natural:
        raise ValueError(
            f"a decay from step {start} over {steps} steps ends past the curriculum's {natural}; "
            f"lengthen the stages with data.steps_scale, or take fewer steps."
        )
    return Branch(path, start, start + steps)
