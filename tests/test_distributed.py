"""Several processes through the door: the same numbers, one folder, and a clean end."""

import json
import time
from pathlib import Path

import pytest

from lras.checkpoint import load
from tests.distributed_runs import TWENTY_STEPS, losses, train, two_against_one, worst_difference
from tests.tiny_model import states_equal

pytestmark = pytest.mark.slow
# Muon rounds to bfloat16 inside, which turns a difference of 1e-7 into one of 1e-4; AdamW does not.
ADAMW = "optimizer=adamw"
FAIL = ("+callbacks.fail._target_=tests.interruptions.FailAt", "+callbacks.fail.step=3")
STOP = ("+callbacks.stop._target_=tests.interruptions.StopAt", "+callbacks.stop.step=8")


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Path, dict]:
    """Runs ``by1`` and ``by2`` over the same batches, and how they compare."""
    work = tmp_path_factory.mktemp("compared")
    return work, two_against_one(work, ADAMW)


def test_two_processes_train_as_one_does_on_the_same_batches(compared):
    _, figures = compared
    assert figures["steps"] == 20 and figures["first_loss_nats"] > figures["last_loss_nats"]
    assert figures["worst_relative_difference"] < 1e-5


def test_two_processes_go_on_as_one_exactly_but_one_not_as_two(compared, tmp_path):
    work, _ = compared
    words = (*TWENTY_STEPS[:1], *TWENTY_STEPS[2:], ADAMW, f"quantizer={work / 'quantizer'}")
    first = train(tmp_path / "run", *words, *STOP, world=2)
    assert first.returncode == 0, first.stderr
    done = train(tmp_path / "run", *words, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert worst_difference(losses(work / "by1"), losses(tmp_path / "run")) < 1e-5

    alone = train(tmp_path / "alone", *words, *STOP)
    assert alone.returncode == 0, alone.stderr
    refused = train(tmp_path / "alone", *words, "resume=auto", world=2)
    assert refused.returncode == 1
    assert "error: the run to resume drew its batches in 1 streams" in refused.stderr
    assert "Traceback" not in refused.stderr


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
    "launcher, error, rank",
    [("lightning", "RuntimeError", 1), ("torchrun", "KILL", 1), ("lightning", "ValueError", 0)],
)
def test_when_one_process_dies_all_end_soon_and_say_so(launcher, error, rank, tmp_path):
    start = time.monotonic()
    words = (*FAIL, f"+callbacks.fail.rank={rank}", f"+callbacks.fail.error={error}")
    done = train(tmp_path / "run", *TWENTY_STEPS, *words, world=2, launcher=launcher)
    assert done.returncode != 0 and time.monotonic() - start < 60
    if rank:
        assert "error: rank 0 of 2 lost another process" in done.stderr
    else:
        assert "error: broken on purpose" in done.stderr
    assert ("broken on purpose" in done.stderr) == (error != "KILL")
