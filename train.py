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
from lras.checkpoint import load_quantizer, save
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule
from tracing.benchmarks.provenance import provenance

log = logging.getLogger("train")


def build_quantizer(cfg: DictConfig, data: L.LightningDataModule, out: Path) -> Quantizer:
    """The quantizer that ``quantizer=`` names, or one trained here and now on the run's data."""
    if cfg.quantizer:
        return load_quantizer(cfg.quantizer)
    module = QuantizerModule(instantiate(cfg.model.quantizer, _convert_="object"), seed=cfg.seed)
    trainer = instantiate(
        cfg.trainer,
        max_steps=cfg.quantizer_steps,
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


def train(cfg: DictConfig) -> Path:
    """Run the whole config; returns the run's folder."""
    if OmegaConf.is_missing(cfg.data, "stages"):
        known = sorted(
            path.stem for path in (Path(__file__).parent / "configs/experiment").glob("*")
        )
        raise ValueError(
            f"no experiment is named, so there is nothing to train on; type python train.py "
            f"experiment=demo (there are: {', '.join(known)})."
        )
    started, origin = time.time(), provenance(cfg.seed)
    out = Path(HydraConfig.get().runtime.output_dir)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    L.seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.data, _convert_="object")
    steps = cfg.trainer.max_steps or getattr(data, "total_steps", None)
    if not steps:
        raise ValueError("data on disk has no natural end: say how long, trainer.max_steps=2000.")
    if steps > getattr(data, "total_steps", steps):
        raise ValueError(
            f"trainer.max_steps={steps} is past the curriculum's end at {data.total_steps}; "
            f"lengthen its stages with data.steps_scale, or leave max_steps=null."
        )
    OmegaConf.save(cfg, out / "config" / "resolved.yaml", resolve=True)
    # Everything is built before anything is trained: a mistake in the config costs no time.
    predictor = instantiate(cfg.model.predictor, _convert_="object")
    optimizer = instantiate(cfg.optimizer)
    callbacks = list(instantiate(cfg.callbacks, _convert_="object").values())
    loggers = list(instantiate(cfg.logger, _convert_="object").values())
    quantizer = build_quantizer(cfg, data, out)
    module = PredictorModule(predictor, quantizer, optimizer, seed=cfg.seed, **cfg.schedule)
    trainer = instantiate(
        cfg.trainer,
        max_steps=steps,
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=str(out),
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    note = {"step": trainer.global_step, "seconds": round(time.time() - started)}
    if trainer.is_global_zero:
        save(module.next_frame(), out / "export", note | origin)
    log.info("run written to %s; next: python eval.py ckpt=%s task=synthetic", out, out)
    return out


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    out = Path(HydraConfig.get().runtime.output_dir)

    def tidy() -> None:
        if {path.name for path in out.iterdir()} <= {"config", "train.log"}:
            shutil.rmtree(out)  # nothing was trained: leave nothing behind

    with one_sentence(tidy):
        train(cfg)


if __name__ == "__main__":
    main()
