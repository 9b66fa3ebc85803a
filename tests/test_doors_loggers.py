"""What a run leaves in its folder, and which loggers a config builds."""

import csv
import json
import sys

import lightning as L
import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from omegaconf import open_dict
from PIL import Image
from torch.utils.data import DataLoader

from doors.loggers import log_config, log_final
from doors.loggers.metrics_csv import MetricsCsv
from doors.loggers.run_folder import RunFolder
from doors.loggers.tensorboard_run import TensorBoardRun
from doors.loggers.wandb_run import WandbRun
from tests.test_configs import composed

CONFIG = {"seed": 3, "model": {"dim": 32, "name": None}, "sizes": [1, 2]}


def rows_of(path):
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def part_of_a_run(path, *logged):
    """Log (step, metrics) pairs as one process would that begins, and later ends."""
    metrics = MetricsCsv(path)
    for step, values in logged:
        metrics.add(values, step)


# --- metrics.csv -------------------------------------------------------------------------------


def test_every_row_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    logger = RunFolder(tmp_path / "new")
    logger.log_metrics({"loss": torch.tensor(0.5)}, step=4)
    assert rows_of(tmp_path / "new/metrics.csv") == [{"step": "4", "loss": "0.5"}]
    logger.log_metrics({"loss": 0.25}, step=9)
    assert [row["step"] for row in rows_of(tmp_path / "new/metrics.csv")] == ["4", "9"]


def test_a_column_that_comes_late_leaves_the_earlier_rows_as_they_were(tmp_path):
    path = tmp_path / "metrics.csv"
    part_of_a_run(path, (1, {"loss": 3}), (2, {"loss": 2, "epe": 7}), (3, {"epe": 6}))
    assert path.read_text().splitlines() == ["step,loss,epe", "1,3,", "2,2,7", "3,,6"]


def test_a_resumed_run_keeps_what_came_before_and_drops_what_it_logs_again(tmp_path):
    path = tmp_path / "metrics.csv"
    part_of_a_run(path, (1, {"loss": 9}), (4, {"loss": 8}), (6, {"epe": 5}), (8, {"loss": 7}))
    part_of_a_run(path, (7, {"loss": 70, "late": 1}), (8, {"loss": 71}))
    assert rows_of(path) == [
        {"step": "1", "loss": "9"},
        {"step": "4", "loss": "8"},
        {"step": "6", "epe": "5"},
        {"step": "7", "loss": "70", "late": "1"},
        {"step": "8", "loss": "71"},
    ]


def test_at_the_very_step_of_the_resume_only_what_is_logged_again_is_replaced(tmp_path):
    path = tmp_path / "metrics.csv"
    part_of_a_run(path, (5, {"loss": 9}), (6, {"epe": 5}), (6, {"loss": 8}), (6, {"val": 1}))
    part_of_a_run(path, (6, {"loss": 80}), (6, {"val": 10}), (7, {"loss": 70}))
    assert rows_of(path) == [
        {"step": "5", "loss": "9"},
        {"step": "6", "epe": "5"},
        {"step": "6", "loss": "80"},
        {"step": "6", "val": "10"},
        {"step": "7", "loss": "70"},
    ]


def test_a_line_cut_off_by_a_dying_process_is_left_out_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "metrics.csv"
    part_of_a_run(path, (1, {"loss": 9}), (2, {"loss": 8}))
    path.write_text(path.read_text() + "12")
    part_of_a_run(path, (20, {"loss": 7}))
    assert [row["step"] for row in rows_of(path)] == ["1", "2", "20"]


def test_a_foreign_metrics_file_is_refused_in_one_sentence_and_left_alone(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"columns epoch, loss and no step.*move it away"):
        part_of_a_run(path, (1, {"loss": 9}))
    assert path.read_text() == "epoch,loss\n1,2\n"


class Line(L.LightningModule):
    """Learns one number, logs its loss every step and something else at each validation."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        loss = (self.weight * batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/weight", self.weight.abs())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class EverySixSteps(Callback):
    """A probe: logs at the count of steps done, before the checkpoint of the same step."""

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step % 6 == 0:
            value = float(module.weight.detach())
            trainer.logger.log_metrics({"probe": value}, step=trainer.global_step)


def fit(folder, max_steps, log_every, checkpoint=None):
    checkpoints = ModelCheckpoint(folder, every_n_train_steps=6, save_last=True, save_top_k=0)
    trainer = L.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=RunFolder(folder),
        callbacks=[EverySixSteps(), checkpoints],
        log_every_n_steps=log_every,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    always_the_same = DataLoader(torch.ones(64, 1), batch_size=1)  # wherever a resume begins
    trainer.fit(Line(), always_the_same, DataLoader(torch.ones(1, 1)), ckpt_path=checkpoint)


@pytest.mark.parametrize("log_every", [1, 2])
def test_a_training_cut_off_and_resumed_leaves_the_metrics_of_one_that_never_stopped(
    tmp_path, log_every
):
    fit(tmp_path / "whole", 12, log_every)
    fit(tmp_path / "parts", 10, log_every)  # its last checkpoint is of step 6
    fit(tmp_path / "parts", 12, log_every, checkpoint=tmp_path / "parts/last.ckpt")
    cells = [
        {
            (row["step"], k): v
            for row in rows_of(tmp_path / run / "metrics.csv")
            for k, v in row.items()
        }
        for run in ("whole", "parts")
    ]
    assert cells[0] == cells[1]
    assert cells[0]["6", "probe"] and cells[0]["12", "probe"] and cells[0]["5", "val/weight"]
    num_rows = [len(rows_of(tmp_path / run / "metrics.csv")) for run in ("whole", "parts")]
    assert num_rows[0] == num_rows[1]


# --- pictures, tables, summary -----------------------------------------------------------------


def test_pictures_are_written_without_a_display_with_their_captions(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    pictures = [np.full((4, 6, 3), shade, np.uint8) for shade in (10, 200)]
    RunFolder(tmp_path).log_image("flow/easy", pictures, step=250, caption=["naïve ε", "two"])
    folder = tmp_path / "pictures/flow/easy"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_0000250_0.png",
        "step_0000250_1.png",
    ]
    first = Image.open(folder / "step_0000250_0.png")
    assert np.array_equal(np.asarray(first), pictures[0])
    assert first.text["caption"] == "naïve ε"


def test_a_table_is_replaced_whole(tmp_path):
    logger = RunFolder(tmp_path)
    logger.log_table("flow/easy", ["step", "epe"], [[0, 3.5]], step=0)
    logger.log_table("flow/easy", ["step", "epe"], [[0, 3.5], [6, 2.5]], step=6)
    assert (tmp_path / "tables/flow/easy.csv").read_text().splitlines() == [
        "step,epe",
        "0,3.5",
        "6,2.5",
    ]


def test_the_summary_holds_the_config_from_the_start_and_the_figures_at_the_end(tmp_path):
    logger = RunFolder(tmp_path)
    log_config([logger], CONFIG)
    assert json.loads((tmp_path / "summary.json").read_text()) == {"config": CONFIG}
    log_final([logger], {"final/epe": torch.tensor(1.5)}, CONFIG)
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "config": CONFIG,
        "final/epe": 1.5,
    }


def test_the_final_figures_do_not_stumble_over_a_stock_logger(tmp_path):
    log_final([CSVLogger(tmp_path, name="", version="")], {"final/epe": 1.5}, CONFIG)


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(L.pytorch.utilities.rank_zero_only, "rank", 1)
    loggers = [RunFolder(tmp_path), TensorBoardRun(tmp_path), WandbRun(save_dir=tmp_path)]
    log_config(loggers, CONFIG)
    for logger in loggers:
        logger.log_metrics({"loss": 1.0}, step=0)
        logger.log_image("a", [np.zeros((4, 4, 3), np.uint8)], step=0, caption=["b"])
        logger.log_table("t", ["a"], [[1]], step=0)
    log_final(loggers, {"final/epe": 1.5}, CONFIG)
    assert list(tmp_path.iterdir()) == []


# --- TensorBoard -------------------------------------------------------------------------------


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def texts(found):
    return {
        tag: found.Tensors(tag)[-1].tensor_proto.string_val[0] for tag in found.Tags()["tensors"]
    }


def test_tensorboard_reads_back_metrics_pictures_tables_config_and_final_figures(tmp_path):
    logger = TensorBoardRun(tmp_path)
    log_config([logger], CONFIG)
    logger.log_metrics({"train/loss": 0.5}, step=3)
    pictures = [np.zeros((4, 6, 3), np.uint8)] * 2
    logger.log_image("flow/easy", pictures, step=3, caption=["one", "two"])
    logger.log_table("table", ["set", "epe"], [["easy", 3.5]], step=3)
    log_final([logger], {"final/epe": 1.5}, CONFIG)
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(3, 0.5)]
    assert [(e.step, e.value) for e in found.Scalars("final/epe")] == [(3, 1.5)]
    assert found.Tags()["images"] == ["flow/easy/0", "flow/easy/1"]
    assert (found.Images("flow/easy/0")[0].height, found.Images("flow/easy/0")[0].width) == (4, 6)
    words = texts(found)
    assert b"| easy | 3.5 |" in words["table/text_summary"]
    assert b'"dim": 32' in words["config/text_summary"]
    assert b"| final/epe | 1.5 |" in words["summary/text_summary"]
    assert b"1. two" in words["flow/easy/captions/text_summary"]


def test_tensorboard_hides_what_a_resumed_run_logs_again(tmp_path):
    for steps, value in (([2, 4, 6, 8], 1.0), ([6, 8, 10], 2.0)):
        logger = TensorBoardRun(tmp_path)
        for step in steps:
            logger.log_metrics({"loss": value}, step=step)
        logger.close()
    seen = [(e.step, e.value) for e in events(tmp_path).Scalars("loss")]
    assert seen == [(2, 1.0), (4, 1.0), (6, 1.0), (6, 2.0), (8, 2.0), (10, 2.0)]


def test_tensorboard_that_is_not_installed_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        TensorBoardRun(tmp_path)


# --- the config group --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("csv", [RunFolder]),
        ("wandb", [RunFolder, WandbRun]),
        ("tensorboard", [RunFolder, TensorBoardRun]),
        ("all", [RunFolder, WandbRun, TensorBoardRun]),
        ("[wandb,tensorboard]", [RunFolder, WandbRun, TensorBoardRun]),
    ],
)
def test_a_choice_of_loggers_composes_and_always_holds_the_files(chosen, expected, tmp_path):
    cfg = composed("train", "experiment=smoke", f"logger={chosen}")
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(tmp_path)
    HydraConfig.instance().set_config(cfg)
    loggers = instantiate(cfg.logger, _convert_="object").values()
    assert [type(logger) for logger in loggers] == expected
    assert list(tmp_path.iterdir()) == []
