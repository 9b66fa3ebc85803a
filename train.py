"""Train a quantizer, then a predictor: ``python train.py experiment=lras_nano``.

Thin on purpose: it builds what the config names, runs it and writes an export that eval.py takes.
In five seconds, to see the wiring: ``python train.py experiment=smoke``.
"""

import logging
import shutil
import time
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from doors import one_sentence
from doors.batch_size import set_batch_sizes
from doors.branching import BRANCH, branch_of, kept_branch
from doors.building import build_data, build_module
from doors.checkpoints import CheckedCheckpointIO, LastCheckpoint
from doors.dry_run import dry_run, memory_line
from doors.loggers import log_config, log_final
from doors.random_state import RandomState
from doors.ranks import one_of_many, rank_or_any, speak_for_rank
from doors.resume import checkpoint_to_resume, step_of, write_config
from doors.run_folder import LAST
from doors.run_record import RECORD, write_record
from doors.stopping import TimeLimit, seconds_of
from doors.training_note import training_note
from lras.checkpoint import save
from lras.sharding import gathered
from studies.run import study_run
from tracing.benchmarks.provenance import provenance

log = logging.getLogger("train")


def named(group: DictConfig) -> list:
    """What a group of the config names; null, and values for what nobody chose, are left out."""
    chosen = [each for each in group.values() if each is not None and "_target_" in each]
    return [instantiate(each, _convert_="object") for each in chosen]


def train(cfg: DictConfig, out: Path) -> None:
    """Run the whole config; what it leaves stands in ``out``."""
    started, origin = time.monotonic(), provenance(cfg.seed)
    limit_s = seconds_of(cfg.trainer.max_time)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    set_batch_sizes(cfg, out)  # before anything random: trying a batch draws weights
    L.seed_everything(cfg.seed, verbose=False)
    data, steps = build_data(cfg)
    if cfg.dry_run:
        dry_run(cfg, data, steps)
        return
    last = checkpoint_to_resume(cfg, out)
    before = step_of(last) if last else 0
    branch = kept_branch(out) if last else branch_of(cfg, getattr(data, "total_steps", None))
    if branch:
        last, steps = last or branch.checkpoint, branch.end
    if before >= steps and (out / "export").is_dir():
        log.info("%s is finished (step %d of %d): there is nothing to do.", out, before, steps)
        return
    callbacks = [LastCheckpoint(out / LAST), TimeLimit(started + limit_s), RandomState()]
    callbacks += named(cfg.callbacks)
    loggers = named(cfg.logger)
    if rank_or_any() == 0:
        write_config(cfg, out, before)
        write_record(cfg, out, origin, before)
        if branch:
            branch.keep(out)
        if not last and (said := memory_line(cfg, data, steps)):
            log.info(said)
    module = build_module(cfg, data, out, last, branch)
    trainer = instantiate(
        cfg.trainer,
        max_steps=steps,
        max_time=None,  # TimeLimit counts it for this command as a whole
        callbacks=callbacks,
        logger=loggers,
        plugins=[CheckedCheckpointIO()],
        default_root_dir=str(out),
        num_sanity_val_steps=0,
    )
    config = OmegaConf.to_container(cfg, resolve=True)
    log_config(loggers, config)
    trainer.fit(module, data, ckpt_path=last, weights_only=True)
    step, seconds = trainer.global_step, round(time.monotonic() - started)
    model = gathered(module.next_frame())
    if trainer.is_global_zero:
        how = callbacks, trainer.accumulate_grad_batches, cfg.sequence.tokens
        note = training_note(data, module.predictor.cfg, step, trainer.world_size, *how)
        save(model, out / "export", {"step": step, "seconds": seconds} | note | origin)
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    log_final(loggers, figures | {"step": step, "seconds": seconds}, config)
    if step < steps:
        log.info("stopped at step %d of %d; go on with resume=auto", step, steps)
    log.info("run written to %s; next: python eval.py ckpt=%s task=synthetic", out, out)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    out = Path(HydraConfig.get().runtime.output_dir)
    speak_for_rank()

    def tidy() -> None:
        started = {"config", "train.log", RECORD, BRANCH}
        if rank_or_any() == 0 and {path.name for path in out.iterdir()} <= started:
            shutil.rmtree(out)  # nothing was trained: leave nothing behind

    with one_sentence(tidy), one_of_many():
        if cfg.study:
            study_run(cfg, out, train)
        else:
            train(cfg, out)
    if cfg.dry_run:
        tidy()


if __name__ == "__main__":
    main()
