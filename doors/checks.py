"""What in a training's config is known to fail, said before anything is trained.

The quantizer is trained first, so what only the predictor's training finds out would be said late.
"""

from hydra.utils import instantiate
from omegaconf import DictConfig

from doors.estimate import Work
from lras.config import PredictorConfig
from lras.loss import check_available
from lras.optim import Schedule
from lras.running import Running

# Weights and optimizer states are float32: with those of "true" half precision nothing here works.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def check_training(cfg: DictConfig, plan: list[Work], model: PredictorConfig) -> None:
    """Raise ValueError for a setting that the training of ``plan`` could not start with."""
    check_precision(cfg.trainer.get("precision"))
    loss = instantiate(cfg.loss)
    check_available(loss.impl, "cpu" if cfg.trainer.accelerator == "cpu" else "cuda")
    given = cfg.schedule
    Schedule(warmup_steps=given.warmup_steps, decay_share=given.decay_share, shape=given.shape)
    Running(compile=given.compile, recompute=given.recompute)
    for work in plan:
        work.tokens(model)  # refuses a limit that holds no patch of each frame, and an odd size


def check_precision(precision: str | int | None) -> None:
    """None is Lightning's default, 32-true, which "32" means too."""
    if precision is not None and str(precision) not in (*PRECISIONS, "32"):
        raise ValueError(
            f"trainer.precision={precision} is none of {', '.join(PRECISIONS)}; choose one of "
            f"these (weights stay float32 in all of them)."
        )
