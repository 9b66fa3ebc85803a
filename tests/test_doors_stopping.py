"""trainer.max_time, and the checkpoint at the end."""

import time

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

from data.curriculum import Stage, SyntheticDataModule
from data.synthetic import SceneConfig
from doors.checkpoints import LastCheckpoint
from doors.stopping import TimeLimit, seconds_of
from lras.predictor_module import PredictorModule
from tests.tiny_model import tiny_model


@pytest.mark.parametrize(
    "given, seconds",
    [
        (None, float("inf")),
        ("00:01:30:05", 5405),
        ({"hours": 1, "minutes": 30}, 5400),
        (OmegaConf.create({"days": 1}), 86400),
    ],
)
def test_a_time_limit_is_read_in_every_form(given, seconds):
    assert seconds_of(given) == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize("given", ["1h", {"hour": 1}, 60, "01:30:00"])
def test_a_time_limit_that_is_none_is_refused(given):
    with pytest.raises(ValueError, match="is no time; write days:hours:minutes:seconds"):
        seconds_of(given)


@pytest.mark.parametrize("left_s, steps", [(-1.0, 1), (3600.0, 6)])
def test_the_fit_ends_in_time_after_one_step_at_least_and_leaves_a_checkpoint(
    left_s, steps, tmp_path
):
    model, scene = tiny_model(), SceneConfig(size=16, max_motion_px=4.0)
    module = PredictorModule(model.predictor, model.quantizer, warmup_steps=2)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=6, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=[LastCheckpoint(tmp_path / "last.ckpt"), TimeLimit(time.monotonic() + left_s)],
    )  # fmt: skip
    trainer.fit(module, SyntheticDataModule([Stage(steps=6, batch=2, scene=scene)], textures=4))
    assert trainer.global_step == steps
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == steps
