"""docs/cluster.md: its commands parse, and a job goes on through hydra's launcher, local mode."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import doors.run_folder  # noqa: F401  registers what the configs call
from tests.distributed_runs import ROOT

PAGE = (ROOT / "docs" / "cluster.md").read_text()


def commands() -> list[list[str]]:
    """Every ``train.py`` command of the page, with its words."""
    text = PAGE.replace("\\\n", " ").replace("$LRAS_DATA", "CLIPS")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    found = [
        re.split(r"\btrain\.py ", line, maxsplit=1)[1] for line in lines if "train.py " in line
    ]
    return [shlex.split(words) for words in found]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_page_is_a_config(words, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = [word for word in words if word != "-m"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", overrides, return_hydra_config=True)
    assert cfg.experiment_name
    if "hydra/launcher=slurm" in words:
        launcher = cfg.hydra.launcher
        assert launcher.tasks_per_node == launcher.gpus_per_node == cfg.trainer.devices == 8
        assert launcher.nodes == cfg.trainer.num_nodes == 2
        assert cfg.callbacks.preemption.requeue and cfg.resume == "auto"


@pytest.mark.slow
def test_a_job_that_is_told_to_go_goes_on_in_its_folder_with_the_same_command(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    command = [sys.executable, "train.py", "-m", "hydra/launcher=local", "experiment=smoke"]
    command += ["~callbacks.progress", "~callbacks.pictures", "resume=auto"]
    signal = {"_target_": "tests.interruptions.SignalAt", "step": 4, "rank": 0, "name": "SIGUSR2"}
    told = [f"+callbacks.signal.{name}={value}" for name, value in signal.items()]
    env = os.environ | {"OMP_NUM_THREADS": "1", "LRAS_RUNS": str(tmp_path)}

    def job(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
        )
        return done.returncode, done.stdout + done.stderr

    status, said = job(*told)
    (run,) = (path for path in (tmp_path / "smoke").iterdir() if path.name.endswith("-seed0"))
    assert status and (run / "checkpoints" / "last.ckpt").resolve().name == "step_0000004.ckpt", (
        said
    )
    assert "stopped at step 4 with exit status 75" in (run / "train.log").read_text()
    assert not (run / "export").exists()
    status, said = job()
    assert status == 0, said
    assert (run / "checkpoints" / "last.ckpt").resolve().name == "step_0000012.ckpt"
    assert len(list(Path(tmp_path / "smoke").glob("*-seed0"))) == 1
