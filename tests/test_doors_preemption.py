"""A signal ends the run after its step, with a checkpoint, a status, and a place in the queue."""

import signal
import stat

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from doors.checkpoints import steps_in
from doors.preemption import EXIT_STATUS, Preemption, put_back_into_the_queue
from tests.short_fits import At, fit, send
from tests.tiny_model import states_equal


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in for SLURM's command, which writes down what it was asked."""
    asked, tool = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_the_run_with_a_checkpoint_and_a_status(number, tmp_path, caplog):
    before = signal.getsignal(number)
    whole = fit(tmp_path / "whole", 8)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        fit(run, 8, At(step3=send(number)), Preemption(run), every=100)
    assert ended.value.code == EXIT_STATUS == 75
    assert list(steps_in(run)) == [3] and f"{number.name} came" in caplog.text
    assert "step 3 with exit status 75; go on with resume=auto" in caplog.text
    assert signal.getsignal(number) == before
    resumed = fit(run, 8, Preemption(run), resume=run / "last.ckpt")
    assert states_equal(resumed, whole)


def test_the_figures_of_the_last_step_are_logged_before_the_run_ends(tmp_path):
    run, logged = tmp_path / "run", []

    class Logger(DummyLogger):
        def log_metrics(self, metrics, step):
            logged.append(step)

    with pytest.raises(SystemExit):
        fit(run, 8, At(step3=send(signal.SIGTERM)), Preemption(run), logger=Logger())
    assert logged == [0, 1, 2]


def test_the_step_is_finished_where_gradients_are_accumulated(tmp_path):
    ended_at = []

    class Halves(Preemption):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            trainer.accumulate_grad_batches = 2  # as if this batch were half a step
            if index == 2:
                self.received = "SIGTERM"
            super().on_train_batch_end(trainer, module, outputs, batch, index)
            trainer.accumulate_grad_batches = 1
            if self.left_at is not None:
                ended_at.append(index)

    with pytest.raises(SystemExit):
        fit(tmp_path, 8, Halves(tmp_path))
    assert ended_at == [3]


def test_a_job_is_put_back_into_the_queue_only_when_asked(tmp_path, scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    for requeue in (False, True):
        run = tmp_path / str(requeue)
        with pytest.raises(SystemExit):
            fit(run, 4, At(step1=send(signal.SIGTERM)), Preemption(run, requeue=requeue))
        assert scontrol.exists() == requeue
    assert scontrol.read_text() == "requeue 77\n"


def test_a_task_of_an_array_is_put_back_by_its_own_name(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    put_back_into_the_queue()
    assert scontrol.read_text() == "requeue 70_3\n"


def test_outside_slurm_or_refused_by_it_a_warning_says_what_to_do(scontrol, monkeypatch, caplog):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    put_back_into_the_queue()
    assert "no SLURM job; start the command again" in caplog.text
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("PATH", "")
    put_back_into_the_queue()
    assert "start the job again by hand" in caplog.text
