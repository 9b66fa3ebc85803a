"""Mistakes at the training door: one sentence each, before anything is trained or written."""

import logging
import sys
from pathlib import Path

import pytest

import train as train_door
from doors.checks import check_precision
from lras import loss

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.fixture
def knock(tmp_path, monkeypatch, capsys):
    """Run train.py in this process on the smoke experiment; what stands on stderr."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])  # hydra sets its own
    monkeypatch.setenv("LRAS_RUNS", str(tmp_path / "runs"))

    def run(*words: str) -> str:
        argv = ["train", "--config-path", str(CONFIGS), "experiment=smoke", *words]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            train_door.main()
        assert isinstance(ended.value.code, str)  # printed on stderr, exit status 1
        return ended.value.code

    return run


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("trainer.precision=bf16-true", "=bf16-true is none of 32-true, bf16-mixed, 16-mixed"),
        ("trainer.precision=fp4", "trainer.precision=fp4 is none of"),
        ("sequence.tokens=2", "sequence.tokens=2 hold no patch of each frame"),
        ("loss.impl=liger", "loss.impl=liger "),
        ("schedule.decay_share=2.5", "use a share from 0 to 1"),
    ],
)
@pytest.mark.parametrize("dry", ["dry_run=true", "dry_run=false"])
def test_a_mistake_of_the_second_training_is_said_before_the_first(
    word, sentence, dry, knock, monkeypatch
):
    monkeypatch.setattr("doors.building.train_quantizer", None)
    monkeypatch.setattr("train.dry_run", None)
    assert sentence in knock(word, dry)


def test_native_is_refused_in_time_where_torch_has_none(knock, monkeypatch):
    monkeypatch.setattr("doors.building.train_quantizer", None)
    monkeypatch.setattr(loss, "has_native", lambda: False)
    assert "set loss.impl=chunked" in knock("loss.impl=native")


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true", "bf16-mixed", "16-mixed"])
def test_what_trains_float32_weights_is_let_through(precision):
    check_precision(precision)


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("resume=/no/such/run", "resume=/no/such/run is no folder; pass the folder of a run"),
        ("init_from=/no/such/run", "no checkpoint at /no/such/run"),
        ("data.streams=3", "stages.0.batch=8 pairs over all processes do not divide into 3"),
        ("trainer.max_time=1h", "trainer.max_time=1h is no time; write days:hours:minutes:seconds"),
        ("trainer.max_steps=13", "trainer.max_steps=13 is past the curriculum's end at 12"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(word, sentence, knock, tmp_path):
    said = knock(word)
    assert said.startswith("error: ") and sentence in said and len(said.splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(tmp_path.glob("runs/smoke/*"))


def test_a_batch_that_does_not_divide_is_said_before_processes_are_started(knock):
    said = knock("trainer=ddp_cpu", "trainer.devices=3")
    assert "data.stages.0.batch=8" in said and "set it to 9" in said


def test_resume_and_init_from_together_are_refused_without_a_look_at_either(knock):
    assert "pass one of the two" in knock("resume=auto", "init_from=x")
