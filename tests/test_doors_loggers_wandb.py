"""Weights & Biases: what a run holds, that it is resumed, and that it never kills a training."""

import csv
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
from lightning.pytorch.loggers.logger import DummyLogger

from doors.loggers import log_config, log_final
from doors.loggers.wandb_run import WandbRun, wandb_run
from tests.wandb_records import config, history, records, run_files, summary

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {"seed": 3, "model": {"dim": 32, "name": None}}
BLACK = np.zeros((4, 6, 3), np.uint8)
KEY = "0123456789" * 4  # as long as a real one
# A whole training's logging, in a process of its own; {folder} and {options} are filled in.
SCRIPT = """
import logging, time
import numpy as np
from doors.loggers import log_config, log_final
from doors.loggers.wandb_run import wandb_run

logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
started = time.monotonic()
logger = wandb_run(save_dir={folder!r}, project="lras", offline=False, {options})
log_config([logger], {{"seed": 3}})
logger.log_metrics({{"train/loss": 0.5}}, step=3)
logger.log_image("flow/easy", [np.zeros((4, 6, 3), np.uint8)] * 2, step=3, caption=["a", "b"])
log_final([logger], {{"final/epe": 1.5}}, {{"seed": 3}})
print(f"the training ended well, logging took {{time.monotonic() - started:.1f}} s")
"""


@pytest.fixture(autouse=True)
def a_machine_without_wandb_settings(monkeypatch, tmp_path):
    """No key, no settings, a home that nothing may be written to."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_SILENT", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that what the logger sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    wandb.teardown()


def files_of_a_finished(run_folder):
    """Its run files, once they are whole: W&B's service writes a little longer than finish()."""
    wandb.teardown()
    return run_files(run_folder)


def seconds_of_logging(output):
    return float(re.search(r"the training ended well, logging took (\S+) s", output)[1])


def warnings(output):
    return [line for line in output.splitlines() if line.startswith("WARNING")]


def messages(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


# --- what is logged: by recorded calls ----------------------------------------------------------


class RecordedRun:
    """Stands in for wandb.Run and remembers what it was told."""

    def __init__(self, fail=False):
        self.id, self.url, self.fail = "recorded", None, fail
        self.logged, self.defined, self.num_finished = [], [], 0
        self.config, self.summary = SimpleNamespace(update=self.set_config), {}

    def set_config(self, values, allow_val_change):
        self.configured = values

    def define_metric(self, name, **options):
        self.defined.append((name, options))

    def log(self, values):
        if self.fail:
            raise OSError("no space left on device")
        self.logged.append(values)

    def finish(self):
        self.num_finished += 1


def recorded(monkeypatch, tmp_path, **options):
    run, asked = RecordedRun(**options), []
    monkeypatch.setattr(wandb, "init", lambda **how: asked.append(how) or run)
    return WandbRun(save_dir=tmp_path / "demo/7", project="lras", tags=["a"]), run, asked


def test_the_calls_wandb_gets_are_metrics_pictures_a_table_the_config_and_the_summary(
    monkeypatch, tmp_path
):
    logger, run, asked = recorded(monkeypatch, tmp_path)
    log_config([logger], CONFIG)
    logger.log_metrics({"train/loss": 0.5}, step=3)
    logger.log_image("flow/easy", [BLACK, BLACK], step=3, caption=["one", "two"])
    logger.log_table("flow/table", ["set", "epe"], [["easy", 3.5]], step=3)
    log_final([logger], {"final/epe": 1.5}, CONFIG)
    assert [sorted(values) for values in run.logged] == [
        ["train/loss", "trainer/global_step"],
        ["flow/easy", "trainer/global_step"],
        ["flow/table", "trainer/global_step"],
    ]
    assert [picture._caption for picture in run.logged[1]["flow/easy"]] == ["one", "two"]
    assert run.logged[2]["flow/table"].data == [["easy", 3.5]]
    assert all(values["trainer/global_step"] == 3 for values in run.logged)
    assert (run.configured, run.summary, run.num_finished) == (CONFIG, {"final/epe": 1.5}, 1)
    assert ("*", {"step_metric": "trainer/global_step", "step_sync": True}) in run.defined
    (how,) = asked
    assert how["mode"] == "offline" and how["name"] == "demo/7" and how["tags"] == ["a"]
    assert how["settings"].init_timeout == 30 and how["settings"].finish_timeout == 30


def test_what_fails_in_wandb_is_said_once_and_training_goes_on(monkeypatch, tmp_path, caplog):
    logger, run, _ = recorded(monkeypatch, tmp_path, fail=True)
    for step in range(5):
        logger.log_metrics({"train/loss": 0.5}, step=step)
    assert messages(caplog) == [
        "W&B failed in log_metrics (no space left on device); training goes on, and what is kept "
        f"goes up with: wandb sync {tmp_path / 'demo/7/wandb'}"
    ]
    log_final([logger], {"final/epe": 1.5}, CONFIG)
    assert run.summary == {"final/epe": 1.5}


def test_without_the_package_there_is_one_warning_and_nothing_is_logged(
    monkeypatch, tmp_path, caplog
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = wandb_run(save_dir=tmp_path, project="lras", offline=True)
    assert isinstance(logger, DummyLogger)
    log_config([logger], CONFIG)
    logger.log_image("flow/easy", [BLACK], step=0, caption=["a"])
    log_final([logger], {"final/epe": 1.5}, CONFIG)
    assert "pip install wandb" in caplog.text and len(caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wandb_that_cannot_even_write_files_is_left_out(monkeypatch, tmp_path, caplog):
    def broken(**how):
        raise OSError("no space left on device")

    monkeypatch.setattr(wandb, "init", broken)
    logger = WandbRun(save_dir=tmp_path, project="lras", offline=False)
    log_config([logger], CONFIG)
    logger.log_metrics({"train/loss": 0.5}, step=0)
    log_final([logger], {"final/epe": 1.5}, CONFIG)
    first, second = messages(caplog)
    assert "logged offline" in first and "is left out" in second


# --- what is logged: by the run file, read with wandb's own records -------------------------------


def test_an_offline_run_file_holds_metrics_pictures_tables_config_and_final_figures(
    tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    logger = wandb_run(save_dir=tmp_path / "run", project="lras", offline=True)
    log_config([logger], CONFIG)
    for step in (3, 7):
        logger.log_metrics({"train/loss": 1 / step, "flow/easy/epe": 2.0 * step}, step=step)
        logger.log_image("flow/easy", [BLACK, BLACK + step], step=step, caption=["a", "b"])
    logger.log_table("flow/table", ["set", "epe"], [["easy", 3.5]], step=7)
    log_final([logger], {"final/epe": 1.5}, CONFIG)

    (path,) = files_of_a_finished(tmp_path / "run")
    rows = history(path)
    curve = [(r["trainer/global_step"], r["flow/easy/epe"]) for r in rows if "train/loss" in r]
    assert curve == [(3, 6), (7, 14)]
    pictures = [row for row in rows if row.get("flow/easy/_type") == "images/separated"]
    assert [(row["trainer/global_step"], row["flow/easy/count"]) for row in pictures] == [
        (3, 2),
        (7, 2),
    ]
    assert all(row["flow/easy/captions"] == ["a", "b"] for row in pictures)
    stored = {name for row in pictures for name in row["flow/easy/filenames"]}
    assert all((path.parent / "files" / name).is_file() for name in stored)
    assert [r["flow/table/nrows"] for r in rows if "flow/table/_type" in r] == [1]
    assert config(path) == CONFIG
    assert summary(path)["final/epe"] == 1.5 and summary(path)["flow/easy/epe"] == 14
    assert f"wandb sync {tmp_path / 'run/wandb'}" in caplog.text


def test_checkpoints_of_an_offline_run_wait_in_its_folder_and_nothing_is_written_elsewhere(
    tmp_path,
):
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    callback = SimpleNamespace(
        last_model_path=str(checkpoint), current_score=None, save_top_k=0, best_model_path=""
    )
    logger = wandb_run(save_dir=tmp_path / "run", project="lras", offline=True, log_model=True)
    logger.log_metrics({"train/loss": 0.5}, step=0)
    logger.after_save_checkpoint(callback)
    logger.finalize("success")
    logger.close()
    (path,) = files_of_a_finished(tmp_path / "run")
    (artifact,) = [r.artifact for r in records(path) if r.HasField("artifact")]
    assert artifact.type == "model" and artifact.name == f"model-{logger.version}"
    (kept,) = artifact.manifest.contents
    assert Path(kept.local_path).read_bytes() == b"weights"
    assert Path(kept.local_path).is_relative_to(tmp_path / "run")
    assert not (tmp_path / "home").exists()


def test_a_resumed_training_goes_on_in_the_same_wandb_run(tmp_path):
    for folder, steps in (("run", [0, 1, 2]), ("other", [0]), ("run", [3, 4])):
        logger = wandb_run(save_dir=tmp_path / folder, project="lras", offline=True)
        for step in steps:
            logger.log_metrics({"train/loss": 0.5}, step=step)
        logger.close()
        time.sleep(0.6)  # W&B names the folder of a part by the second it began in
    parts = files_of_a_finished(tmp_path / "run")
    assert [[row["trainer/global_step"] for row in history(p)] for p in parts] == [
        [0, 1, 2],
        [3, 4],
    ]
    ids = [r.run.run_id for path in parts for r in records(path) if r.HasField("run")]
    kept = (tmp_path / "run/wandb_id.txt").read_text().strip()
    assert ids == [kept, kept]
    assert kept != (tmp_path / "other/wandb_id.txt").read_text().strip()


@pytest.mark.slow
def test_a_training_with_wandb_sends_it_every_metric_and_picture_that_its_folder_holds(tmp_path):
    words = ("experiment=smoke", "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}")
    command = [sys.executable, "train.py", *words]
    done = subprocess.run(command, cwd=ROOT, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = run_files(tmp_path / "run")
    rows = history(path)
    with (tmp_path / "run/metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames) - {"step"}
    assert columns <= {key for row in rows for key in row}
    assert {"flow/held_out/epe", "train/nats_per_code", "val/nats_per_code"} <= columns
    counts = [n for row in rows for key, n in row.items() if re.fullmatch(r".+/count", key)]
    num_pictures = len(list((tmp_path / "run/pictures").rglob("*.png")))
    assert sum(counts) == num_pictures > 0
    assert config(path)["experiment_name"] == "smoke"
    figures = json.loads((tmp_path / "run/summary.json").read_text())
    assert figures.pop("config")["experiment_name"] == "smoke"
    assert figures.keys() <= summary(path).keys()
    assert figures["val/nats_per_code"] == summary(path)["val/nats_per_code"]


# --- a server that is not there, or goes away ----------------------------------------------------


@pytest.mark.slow
def test_a_server_that_cannot_be_reached_turns_the_run_offline_in_bounded_time(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    started = time.monotonic()
    logger = wandb_run(save_dir=tmp_path, project="lras", offline=False, init_timeout_s=2)
    log_config([logger], CONFIG)
    log_final([logger], {"final/epe": 1.5}, CONFIG)
    seconds = time.monotonic() - started
    (warning,) = messages(caplog)
    assert "connection refused" in warning or "deadline exceeded" in warning
    assert "logged offline" in warning and "\n" not in warning
    assert f"wandb sync {tmp_path / 'wandb'}" in caplog.text
    (offline,) = [path for path in files_of_a_finished(tmp_path) if "offline-run" in str(path)]
    assert summary(offline)["final/epe"] == 1.5 and config(offline) == CONFIG
    assert seconds < 15


@pytest.mark.slow
def test_without_a_key_nothing_is_asked_at_the_keyboard_and_the_run_goes_offline(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    script = SCRIPT.format(folder=str(tmp_path), options="")
    terminal, keyboard = pty.openpty()  # as if a person sat there, who types nothing
    try:
        command = [sys.executable, "-c", script]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), keyboard)
        done = subprocess.run(command, cwd=ROOT, timeout=120, **streams)
        output = os.read(terminal, 65_536).decode()
    finally:
        os.close(terminal)
        os.close(keyboard)
    assert done.returncode == 0 and seconds_of_logging(output) < 15
    (warning,) = warnings(output)
    assert "No API key configured" in warning and "logged offline" in warning
    (offline,) = run_files(tmp_path)
    assert summary(offline)["final/epe"] == 1.5


class Server(BaseHTTPRequestHandler):
    """Just enough of a W&B server to begin one run; then it fails everything."""

    up = True

    def do_POST(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = b'{"data": {"model": null}}'
        if b"upsertBucket" in asked:
            answer = (
                b'{"data": {"upsertBucket": {"inserted": true, "bucket": {"id": "1", "name": "r",'
                b' "config": "{}", "historyLineCount": 0, "project": {"id": "p", "name": "lras",'
                b' "entity": {"id": "e", "name": "me"}}}}}}'
            )
        self.send_response(200 if Server.up else 500)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        Server.up = Server.up and b"upsertBucket" not in asked

    do_GET = do_PUT = do_POST

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_a_server_that_goes_down_midway_does_not_hold_the_end_up(tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "up", True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    script = SCRIPT.format(folder=str(tmp_path), options="finish_timeout_s=3")
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, timeout=120, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    server.shutdown()
    assert done.returncode == 0 and seconds_of_logging(done.stdout) < 15
    assert "INFO: W&B run: http" in done.stdout
    (warning,) = warnings(done.stdout)
    assert "W&B failed in close (Timed out finishing run.)" in warning
    assert f"wandb sync --include-online {tmp_path / 'wandb'}" in warning
    (path,) = run_files(tmp_path)
    assert summary(path)["final/epe"] == 1.5  # nothing is lost: it waits on disk
