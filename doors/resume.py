"""``resume=``: go on with a training that stopped, exactly where its last checkpoint stands."""

import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from doors.checked_files import damage
from doors.checkpoints import steps_in
from doors.ranks import rank_or_any
from doors.run_folder import LAST, has_checkpoint
from lras.sharded_files import is_sharded, read_meta

log = logging.getLogger("train")

CONFIG = Path("config") / "resolved.yaml"
# What decides the weights of a given step. All else (loggers, callbacks, devices, time) is free.
MUST_AGREE = (
    "model",
    "data",
    "optimizer",
    "schedule",
    "loss.z_weight",
    "sequence.tokens",
    "seed",
    "quantizer",
    "quantizer_steps",
    "trainer.precision",
    "trainer.gradient_clip_val",
    "callbacks.ema",
)
# A data set may move. Streams and batch size depend on how many processes share the work; the
# data module checks them against the checkpoint.
MAY_DIFFER = ("data.streams", "data.num_workers", "data.batch_size")
MAY_DIFFER += ("data.cache_dir", "data.cache_gb", "data.byte_ranges", "data.accept_other_plan")
MAY_DIFFER += ("data.multiprocessing_context",)
OTHER_PLAN = ("data.seed", "data.weights", "data.window")  # free with data.accept_other_plan=true
# Runs of before there was such a setting were trained as these say.
ONCE_IMPLIED = (
    ("schedule.shape", "stable"),
    ("schedule.recompute", "none"),
    ("loss.z_weight", 0.0),
)
NUM_NAMED = 3


def checkpoint_to_resume(cfg: DictConfig, out: Path) -> Path | None:
    """The checkpoint in ``out`` to go on from; None for a run that starts at step 0.

    That is the newest one that is as it was written; damaged ones are named and passed over.

    Raises:
        FileNotFoundError: ``resume=RUN`` names a run without a checkpoint.
        ValueError: the config is not that of the run, a new run would overwrite one, or all
            checkpoints are damaged.
    """
    if cfg.resume and cfg.init_from:
        raise ValueError(
            f"got resume={cfg.resume} and init_from={cfg.init_from}, but a resumed run has its "
            f"weights already; pass one of the two."
        )
    if cfg.resume is None and has_checkpoint(out):
        raise ValueError(
            f"{out} holds a run already; add resume=auto to go on with it, or name another "
            f"hydra.run.dir."
        )
    if cfg.resume in (None, "auto"):
        if cfg.resume:
            _say_what_was_found(out)
        return _agreeing(cfg, out) if has_checkpoint(out) else None
    if not has_checkpoint(out) or Path(cfg.resume).resolve() != out.resolve():
        raise FileNotFoundError(_why_not(Path(cfg.resume), out))
    return _agreeing(cfg, out)


def undamaged(folder: Path) -> Path:
    """The newest checkpoint of a run that can be gone on with: ``last``, or else one before it.

    Raises:
        ValueError: every one of them is damaged.
    """
    last = folder / LAST
    found = [last.resolve(), *steps_in(last.parent).values()]
    problems = []
    for path in dict.fromkeys(found):
        problem = damage(path)  # every rank reads every byte, and so all come to one choice
        try:
            step = -1 if problem else step_of(path)
        except ValueError as error:
            problem = str(error)
        if not problem:
            if problems and rank_or_any() == 0:
                log.warning("%s; going on from %s, step %d.", "; ".join(problems), path.name, step)
            return path
        problems.append(problem if str(path) in problem else f"{path} {problem}")
    raise ValueError(
        f"no checkpoint of {folder} can be gone on with ({'; '.join(problems)}); start a new run "
        f"with resume=null."
    )


def step_of(checkpoint: Path) -> int:
    """Optimizer steps taken when ``checkpoint`` was written.

    Raises:
        ValueError: the file is damaged or none of ours.
    """
    try:
        if is_sharded(checkpoint):
            return int(read_meta(checkpoint)["global_step"])
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return int(state["global_step"])
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"{checkpoint} cannot be read ({type(error).__name__}), so the run cannot go on; "
            f"start a new one with resume=null."
        ) from error


def write_config(cfg: DictConfig, out: Path, resumed_at: int) -> None:
    """Keep the resolved config; that of a resumed run stands beside the first one."""
    path = out / CONFIG
    if resumed_at:
        path = path.with_name(f"resumed-at-{resumed_at:07d}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    OmegaConf.save(cfg, partial, resolve=True)
    partial.replace(path)


def differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, value before, value now) of every leaf that differs between two plain configs."""
    if isinstance(before, list) and isinstance(now, list):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [(key, before, now)]
    return [
        difference
        for name in list(before) + [name for name in now if name not in before]
        for difference in differences(
            before.get(name), now.get(name), f"{key}.{name}" if key else str(name)
        )
    ]


def _agreeing(cfg: DictConfig, out: Path) -> Path:
    """The checkpoint in ``out``, after a look at what its run was configured as."""
    check_same_run(cfg, out)
    return undamaged(out)


def check_same_run(cfg: DictConfig, out: Path) -> None:
    """Whether ``cfg`` would train what the run in ``out`` was trained as.

    Raises:
        FileNotFoundError: nobody noted that run's config.
        ValueError: something that decides the weights differs.
    """
    if not (out / CONFIG).is_file():
        raise FileNotFoundError(
            f"{out} has a checkpoint but no {CONFIG}, so nobody can say whether this config is its "
            f"own; pass a run that train.py wrote."
        )
    then = OmegaConf.load(out / CONFIG)
    before, now = ({key: _plain(each, key) for key in MUST_AGREE} for each in (then, cfg))
    found = [
        (key, old, new)
        for key, old, new in differences(before, now)
        if not _is_free(key, cfg) and (old is not None or (key, new) not in ONCE_IMPLIED)
    ]
    if found:
        named = ", ".join(f"{key} ({old} there, {new} here)" for key, old, new in found[:NUM_NAMED])
        more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
        raise ValueError(
            f"{out} was trained with another config: {named}{more}; set these as they were, or "
            f"start a new run with init_from={out}."
        )
    steps_then, steps_now = then.trainer.max_steps, cfg.trainer.max_steps
    if steps_then != steps_now and rank_or_any() == 0:
        log.warning(
            "trainer.max_steps was %s and is %s now: the learning rate follows the new schedule.",
            steps_then,
            steps_now,
        )


def _is_free(key: str, cfg: DictConfig) -> bool:
    """Whether a run may go on with another value of that key."""
    moved = key == "data.root" or key.startswith("data.root.")
    other_plan = bool(cfg.data.get("accept_other_plan")) and key.startswith(OTHER_PLAN)
    return moved or key in MAY_DIFFER or other_plan


def _plain(cfg: DictConfig, key: str) -> Any:
    """A resolved copy of one node, None where it is absent."""
    node = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _say_what_was_found(out: Path) -> None:
    if has_checkpoint(out):
        return
    log.info("resume=auto: no run of this experiment and seed has a checkpoint; starting anew.")
    seed = out.name.rpartition("-seed")[2]
    started = [path for path in out.parent.glob(f"*-seed{seed}") if (path / CONFIG).is_file()]
    for path in started:
        log.info("resume=auto: %s was stopped before its first checkpoint.", path)


def _why_not(run: Path, out: Path) -> str:
    """One sentence on why ``resume=run`` cannot be done."""
    if not run.is_dir():
        return f"resume={run} is no folder; pass the folder of a run, or resume=auto."
    if not has_checkpoint(run):
        found = sorted(path.name for path in run.iterdir())[:8]
        return (
            f"{run} has no {LAST} (found: {found}): it was stopped before its first checkpoint; "
            f"start it anew with resume=null."
        )
    return f"resume={run} goes on in its own folder, but hydra.run.dir is {out}; leave that out."
