"""One run of a study: trained once, whoever else is at work, on its seed's quantizer; graded."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data.curriculum import SyntheticDataModule
from doors.estimate import num_processes
from doors.ranks import rank_or_any
from doors.resume import CONFIG, check_same_run
from doors.run_folder import has_checkpoint
from studies.card import CARD
from studies.claimed import claimed
from studies.final import last_step, write_card
from studies.quantizers import quantizer_path, shared_quantizer

log = logging.getLogger("train")

Train = Callable[[DictConfig, Path], None]


def study_run(cfg: DictConfig, out: Path, train: Train) -> None:
    """Bring the run in ``out`` to its card, from wherever it stands; ``train`` is train.py's.

    A run with a card is done, and one that another process is working on is left to it.

    Raises:
        ValueError: the budget does not fit, a sweep would start processes of its own, or the run in
            ``out`` is one of another config.
    """
    if cfg.dry_run:
        train(cfg, out)
        return
    check_processes(cfg)
    data = instantiate(cfg.data, _convert_="object")  # a wrong budget is told before all else
    if (out / CARD).is_file():
        cfg.quantizer = cfg.quantizer or _as_before(quantizer_path(cfg, data, out.parent), out)
        check_same_run(cfg, out)  # or another study's runs would pass for this one's
        log.info("%s is finished: %s is there.", out, CARD)
        return
    if rank_or_any():  # the first process holds the claim for all
        _train(cfg, out, data, train)
        return
    with claimed(out.parent / ".claims" / out.name) as ours:
        if not ours:
            _leave_alone(cfg, out)
            return
        if (out / CARD).is_file():  # written between our look and our claim
            return
        _train(cfg, out, data, train)
        if last_step(out) < (cfg.trainer.max_steps or data.total_steps):
            log.info("%s is not finished; the same command goes on with it.", out)
            return
        card = write_card(cfg, out, instantiate(cfg.study, _convert_="object"))
        told = {name: f"{each.epe_px:.2f} px" for name, each in card.sets.items()}
        log.info("%s: loss %.3f nats, EPE %s", out / CARD, card.loss_nats, told)


def _train(cfg: DictConfig, out: Path, data: SyntheticDataModule, train: Train) -> None:
    cfg.resume = "auto" if has_checkpoint(out) else None
    if cfg.quantizer is None:
        cfg.quantizer = _as_before(shared_quantizer(cfg, data, out.parent), out)
    train(cfg, out)


def _as_before(quantizer: Path, out: Path) -> str:
    """Its path as the run in ``out`` noted it, if that was the same: studies may move."""
    noted = OmegaConf.load(out / CONFIG).quantizer if (out / CONFIG).is_file() else None
    return str(noted if noted and Path(noted).name == quantizer.name else quantizer)


def _leave_alone(cfg: DictConfig, out: Path) -> None:
    if num_processes(cfg) > 1:  # the others would wait for this one for ever
        # No ValueError: on one the door would clear away the folder that another is filling.
        raise SystemExit(f"error: another process is training {out}; give the command again later.")
    log.info("%s is being trained by another process: left to it.", out)


def check_processes(cfg: DictConfig) -> None:
    """Lightning starts its processes with the whole sweep's command, not with one run's."""
    own = {"RANK", "SLURM_PROCID"} & os.environ.keys()
    if num_processes(cfg) > 1 and not own and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            "a sweep cannot start processes of its own for each run; give one GPU to each of "
            "several such commands (CUDA_VISIBLE_DEVICES=N ... trainer=gpu), one job to each run "
            "(hydra/launcher=slurm), or one run a command (hydra.mode=RUN)."
        )
