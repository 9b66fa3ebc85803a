"""An evaluation in Weights & Biases: every table, picture and figure; and never a lost one."""

import json
import logging

import pytest
import torch

from doors.loggers import evaluation_run
from doors.loggers.evaluation_run import log_evaluation
from tests.test_tracing_report import results
from tests.wandb_records import config, history, run_files, summary
from tracing.visualize import arrows_figure, save_png

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    points = torch.tensor([[8.0, 8.0]])
    figure = arrows_figure(torch.zeros(3, 16, 16), points, points + 2, points)
    (tmp_path / "pictures").mkdir()
    save_png(figure, tmp_path / "pictures" / "case_best.png")
    pictures = [{"file": "pictures/case_best.png", "caption": "the best"}]
    (tmp_path / "results.json").write_text(json.dumps(results(pictures=pictures)))
    return tmp_path


def test_tables_pictures_and_figures_are_logged(folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_evaluation(folder, "lras", offline=False)
    (path,) = run_files(folder)
    logged = {key: value for line in history(path) for key, value in line.items()}
    assert logged["tables/Tracers/nrows"] == 4  # three tracers and the floor
    assert logged["tables/Controls/nrows"] == 1
    assert logged["pictures/case_best/captions"] == ["the best"]
    figures = summary(path)
    assert figures["kl/epe"] == 1.0 and figures["untrained <model>/epe"] == 4.25
    assert config(path)["task"] == "synthetic"


def test_wandb_being_down_loses_nothing_and_says_so_once(folder, monkeypatch, caplog):
    import wandb

    def down(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(wandb, "init", down)
    before = (folder / "results.json").read_bytes()
    with caplog.at_level(logging.WARNING):
        log_evaluation(folder, "lras", offline=False)
    assert "no network" in caplog.text
    assert (folder / "results.json").read_bytes() == before


def test_without_wandb_there_is_one_warning(folder, monkeypatch, caplog):
    from lightning.pytorch.loggers.logger import DummyLogger

    monkeypatch.setattr(evaluation_run, "wandb_run", lambda **_: DummyLogger())
    log_evaluation(folder, "lras", offline=True)
    assert not (folder / "wandb").exists()
