"""Several processes through the door: the same numbers, one folder, and a clean end."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doors.preemption import EXIT_STATUS
from lras.checkpoint import load, load_predictor
from tests.distributed_runs import ROOT, TWENTY_STEPS, compared, train, two_against_one
from tests.tiny_model import states_equal

pytestmark = pytest.mark.slow
# Muon rounds to bfloat16 inside, which turns a difference of 1e-7 into one of 1e-4; AdamW does not.
ADAMW = "optimizer=adamw"
FAIL = ("+callbacks.fail._target_=tests.interruptions.FailAt", "+callbacks.fail.step=3")
SIGNAL = ("+callbacks.signal._target_=tests.interruptions.SignalAt", "+callbacks.signal.step=7")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Where runs ``quantizer``, ``by1``, ``ddp_cpu2``, ``fsdp_cpu2`` over the same batches are."""
    return tmp_path_factory.mktemp("compared")


@pytest.mark.parametrize("trainer", ["ddp_cpu", "fsdp_cpu"])
def test_two_processes_train_as_one_does_on_the_same_batches(trainer, work):
    figures = two_against_one(work, ADAMW, trainer=trainer)
    assert figures["steps"] == 20 and figures["first_loss_nats"] > figures["last_loss_nats"]
    assert figures["worst_relative_difference"] < 1e-5
    # Clipping divides by this norm: were it one rank's own, the losses above would differ too.
    assert figures["worst_difference_of_norms"] < 1e-5 and figures["clipped_steps"] > 0


@pytest.mark.parametrize(
    "before, after",
    [
        ((2, "ddp_cpu"), (1, "cpu")),
        ((2, "fsdp_cpu"), (1, "cpu")),
        ((1, "cpu"), (2, "fsdp_cpu")),
    ],
)
def test_a_run_goes_on_by_another_number_of_processes(before, after, work, tmp_path):
    two_against_one(work, ADAMW)
    words = (*TWENTY_STEPS, ADAMW, f"quantizer={work / 'quantizer'}")
    last = f"+callbacks.signal.rank={before[0] - 1}"  # rank 0 must hear of it from the other
    first = train(tmp_path / "run", *words, *SIGNAL, last, world=before[0], trainer=before[1])
    assert first.returncode == EXIT_STATUS, first.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_dir() == (before[1] == "fsdp_cpu")
    assert load_predictor(tmp_path / "run")  # without an export, out of the checkpoint
    done = train(tmp_path / "run", *words, "resume=auto", world=after[0], trainer=after[1])
    assert done.returncode == 0, done.stderr
    figures = compared(work / "by1", tmp_path / "run")
    assert figures["steps"] == 20 and figures["worst_relative_difference"] < 1e-5
    assert figures["worst_difference_of_norms"] < 1e-5
    assert load(tmp_path / "run")


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_train_a_quantizer_and_a_predictor_into_one_folder(
    launcher, tmp_path, monkeypatch
):
    monkeypatch.setenv("LRAS_RUNS", str(tmp_path))
    done = train(None, "experiment=smoke", "~callbacks.progress", world=2, launcher=launcher)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "smoke").iterdir()
    assert states_equal(load(folder), load(folder / "checkpoints" / "last.ckpt"))
    assert [point["step"] for point in json.loads((folder / "probe.json").read_text())][-1] == 12
    assert done.stdout.count("run written to") == 1  # rank 0 speaks
    assert {path.name for path in folder.glob("*.log")} == {"train.log"}
    assert (folder / "train.log").read_text().count("quantizer after") == 1


@pytest.mark.parametrize(
    "launcher, error, rank, trainer",
    [
        ("lightning", "RuntimeError", 1, "ddp_cpu"),
        ("torchrun", "KILL", 1, "ddp_cpu"),
        ("lightning", "ValueError", 0, "ddp_cpu"),
        ("torchrun", "KILL", 1, "fsdp_cpu"),
    ],
)
def test_when_one_process_dies_all_end_soon_and_say_so(
    launcher, error, rank, trainer, work, tmp_path
):
    two_against_one(work, ADAMW)  # for its quantizer
    words = (*FAIL, f"+callbacks.fail.rank={rank}", f"+callbacks.fail.error={error}")
    words += (*TWENTY_STEPS, f"quantizer={work / 'quantizer'}")
    done = train(tmp_path / "run", *words, world=2, launcher=launcher, trainer=trainer)
    assert done.returncode != 0
    assert time.monotonic() - float((tmp_path / "run" / "died_at_s").read_text()) < 60
    if rank:
        assert "error: rank 0 of 2 lost another process" in done.stderr
    else:
        assert "error: broken on purpose" in done.stderr
    assert ("broken on purpose" in done.stderr) == (error != "KILL")


def test_muon_on_sharded_matrices_moves_them_as_on_whole_ones(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.sharded_muon", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    worst = json.loads((tmp_path / "worst.json").read_text())
    # Muon rounds to bfloat16, 1 part in 256, in every one of its matrix products; AdamW does not.
    assert max(worst.values()) < 0.03
    assert max(value for name, value in worst.items() if "blocks" not in name) < 1e-6
