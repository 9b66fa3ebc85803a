"""From a config to the parts of a training: how many steps, which quantizer, which weights."""

import logging
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from data.curriculum import check_streams
from doors.branching import Branch
from doors.checks import check_training
from doors.estimate import num_processes, work_of
from doors.init_from import warm_start
from lras.checkpoint import load, load_quantizer
from lras.next_frame import NextFrame
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule

log = logging.getLogger("train")


def build_data(cfg: DictConfig) -> tuple[L.LightningDataModule, int]:
    """The data, and the optimizer steps of the predictor on them.

    Raises:
        ValueError: no experiment is named, steps or processes do not fit the data, or a setting is
            known to fail once the quantizer is trained.
    """
    if OmegaConf.is_missing(cfg.data, "stages"):
        experiments = Path(__file__).parents[1] / "configs" / "experiment"
        known = sorted(path.stem for path in experiments.glob("*.yaml"))
        raise ValueError(
            f"no experiment is named, so there is nothing to train on; type python train.py "
            f"experiment=demo (there are: {', '.join(known)})."
        )
    data = instantiate(cfg.data, _convert_="object")
    natural = getattr(data, "total_steps", None)
    steps = cfg.trainer.max_steps or natural
    if not steps:
        raise ValueError("data on disk has no natural end: say how long, trainer.max_steps=2000.")
    if natural and steps > natural:
        raise ValueError(
            f"trainer.max_steps={steps} is past the curriculum's end at {natural}; "
            f"lengthen its stages with data.steps_scale, or leave max_steps=null."
        )
    if hasattr(data, "stages"):  # before any process is started
        parts = cfg.trainer.get("accumulate_grad_batches", 1)
        check_streams(data.stages, data.streams, num_processes(cfg), parts)
    model = instantiate(cfg.model.predictor.cfg, _convert_="object")
    check_training(cfg, work_of(cfg, data, steps, model), model)
    return data, steps


def build_module(
    cfg: DictConfig,
    data: L.LightningDataModule,
    out: Path,
    last: Path | None,
    branch: Branch | None = None,
) -> PredictorModule:
    """The predictor behind its quantizer, with the weights of ``init_from`` where they fit.

    ``last`` is the checkpoint to go on from: it holds the quantizer, which stays as it is.
    ``branch``: where the learning rate begins to fall, if not by its share.
    """
    # Everything is built before anything is trained: a mistake in the config costs no time.
    predictor = instantiate(cfg.model.predictor, _convert_="object")
    optimizer = instantiate(cfg.optimizer)
    source = load(cfg.init_from) if cfg.init_from else None
    quantizer = load_quantizer(last) if last else _build_quantizer(cfg, data, out, source)
    if source is not None:
        same = source.quantizer.fingerprint() == quantizer.fingerprint()
        warm_start(predictor, source, same).report(cfg.init_from)
    schedule = {k: v for k, v in cfg.schedule.items() if k not in ("decay_from", "decay_steps")}
    schedule |= {"decay_start": branch.start if branch else None, "loss": instantiate(cfg.loss)}
    tokens = cfg.sequence.tokens
    return PredictorModule(
        predictor, quantizer, optimizer, seed=cfg.seed, tokens=tokens, **schedule
    )


def _build_quantizer(
    cfg: DictConfig, data: L.LightningDataModule, out: Path, source: NextFrame | None
) -> Quantizer:
    """The quantizer that ``quantizer=`` names, that of ``init_from``, or one trained here."""
    if cfg.quantizer:
        return load_quantizer(cfg.quantizer)
    quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    if source is not None and source.quantizer.cfg == quantizer.cfg:
        log.info("init_from: its quantizer %s is used too", source.quantizer.fingerprint())
        return source.quantizer
    if any(folder.index.kind == "tokens" for folder in getattr(data, "training_folders", [])):
        raise ValueError(
            f"data.root={cfg.data.root} holds codes, from which no quantizer can be trained; name "
            f"the run whose encoder made them: quantizer=RUN."
        )
    return train_quantizer(cfg, quantizer, data, out)


def train_quantizer(
    cfg: DictConfig, quantizer: Quantizer, data: L.LightningDataModule, out: Path
) -> Quantizer:
    """``quantizer`` after ``quantizer_steps`` on ``data``; Lightning's own files go to ``out``."""
    module = QuantizerModule(quantizer, seed=cfg.seed, lpips=cfg.quantizer_lpips)
    trainer = instantiate(
        cfg.trainer,
        max_steps=cfg.quantizer_steps,
        max_time=None,
        precision="32-true",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=str(out),
        check_val_every_n_epoch=None,
        val_check_interval=cfg.quantizer_steps,
    )
    trainer.fit(module, data.mixed() if hasattr(data, "mixed") else data)
    measured = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
    log.info("quantizer after %d steps: %s", cfg.quantizer_steps, measured)
    return module.quantizer.eval()
