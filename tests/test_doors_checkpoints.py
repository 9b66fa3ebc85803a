"""Checkpoints are whole or not there, checked, kept as asked, and a full disk costs a warning."""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from doors import checked_files
from doors.checked_files import damage, digests_of, seal_folder, sums_of, write_checked
from doors.checkpoints import Keep, StepCheckpoint, prune, steps_in
from doors.loggers.run_folder import RunFolder
from tests.short_fits import At, fit, largest_file
from tests.tiny_model import states_equal


def saved(path: Path, value: float = 1.0) -> Path:
    write_checked(path, partial(torch.save, {"value": torch.full((1000,), value)}))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_checkpoint_carries_the_checksum_that_sha256sum_knows(tmp_path):
    path = saved(tmp_path / "a.ckpt")
    assert damage(path) == "" and names(tmp_path) == {"a.ckpt", "a.ckpt.sha256"}
    assert torch.load(path, weights_only=True)["value"].sum() == 1000
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "a.ckpt.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("harm", ["truncated", "one bit", "emptied", "gone"])
def test_damage_of_a_file_is_seen(harm, tmp_path):
    path = saved(tmp_path / "a.ckpt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:-9], "one bit": content, "emptied": b""}[harm])
    assert damage(path)


def test_a_file_without_a_checksum_passes(tmp_path):
    torch.save({}, tmp_path / "old.ckpt")
    assert damage(tmp_path / "old.ckpt") == ""


def test_a_write_that_fails_leaves_the_older_file_and_its_checksum(tmp_path):
    path = saved(tmp_path / "a.ckpt", 1.0)
    before, sums = path.read_bytes(), sums_of(path)
    largest_file(2000)()
    try:
        with pytest.raises(OSError):
            saved(path, 2.0)
    finally:
        largest_file(-1)()
    assert path.read_bytes() == before and sums_of(path) == sums and damage(path) == ""
    assert names(tmp_path) == {"a.ckpt", "a.ckpt.sha256"}


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_killed_between_any_two_renames_a_file_is_still_whole(moment, tmp_path, monkeypatch):
    path = saved(tmp_path / "a.ckpt", 1.0)
    done, replace = 0, Path.replace

    def killed(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == moment:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        saved(path, 2.0)
    assert damage(path) == ""
    assert torch.load(path, weights_only=True)["value"][0] == (2.0 if moment == 3 else 1.0)


def test_a_folder_is_whole_when_all_its_files_are_as_listed(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert "never finished" in damage(tmp_path)
    seal_folder(tmp_path, digests_of([tmp_path / "a", tmp_path / "b"]))
    assert damage(tmp_path) == ""
    (tmp_path / "b").write_bytes(b"3")
    assert "b that is not what was written" in damage(tmp_path)
    (tmp_path / "b").unlink()
    assert "lacks b" in damage(tmp_path)
    checked_files.remove(tmp_path)
    assert not tmp_path.exists()


def test_the_newest_and_every_nth_are_kept_and_a_future_that_did_not_come_goes(tmp_path):
    for step in (10, 20, 30, 40, 50, 60, 70):
        saved(tmp_path / f"step_{step:07d}.ckpt")
    (tmp_path / "step_0000060.ckpt.partial").write_bytes(b"cut off")
    prune(tmp_path, 60, Keep(last=2, every=30))
    assert list(steps_in(tmp_path)) == [60, 50, 30]
    assert len(names(tmp_path)) == 6  # with their checksums


@pytest.mark.parametrize("last, every", [(0, None), (1, 0)])
def test_a_run_without_any_checkpoint_is_refused(last, every):
    with pytest.raises(ValueError, match="at least one checkpoint must stay"):
        Keep(last, every)


def test_a_fit_keeps_what_it_is_told_and_last_leads_to_the_newest(tmp_path):
    fit(tmp_path, 9, keep_last=2, keep_every=4)
    assert list(steps_in(tmp_path)) == [9, 8, 4]
    assert (tmp_path / "last.ckpt").resolve() == tmp_path / "step_0000009.ckpt"
    assert {damage(path) for path in steps_in(tmp_path).values()} == {""}


def test_a_full_disk_costs_a_warning_and_the_next_checkpoint_is_written(tmp_path, caplog):
    fit(tmp_path / "calm", 8)
    limit = At(step3=largest_file(2000), step7=largest_file(-1))
    broken = fit(tmp_path / "run", 8, limit)
    said = [each.message for each in caplog.records if "could not be written" in each.message]
    assert len(said) == 2 and "step_0000004" in said[0] and "step_0000006" in said[1]
    assert "File too large" in said[0] and "make room on the disk" in said[0]
    assert list(steps_in(tmp_path / "run")) == [8, 2]  # two kept, 4 and 6 never were
    resumed = fit(tmp_path / "run", 8, resume=tmp_path / "run" / "step_0000002.ckpt")
    assert states_equal(resumed, broken)


def test_a_full_disk_costs_the_figures_of_its_time_and_no_others(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    for step in range(4):
        folder.log_metrics({"loss": float(step)}, step)
    largest_file((tmp_path / "metrics.csv").stat().st_size + 3)()  # the next line is cut off
    try:
        for step in (4, 5):
            folder.log_metrics({"loss": float(step)}, step)
            folder.log_image("a", [np.zeros((64, 64, 3), np.uint8)], step)
    finally:
        largest_file(-1)()
    folder.log_metrics({"loss": 6.0}, 6)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows == ["step,loss", *(f"{step},{float(step)}" for step in (0, 1, 2, 3, 6))]
    assert caplog.text.count("figures and pictures are lost until there is room") == 1


def test_a_checkpoint_is_never_written_over_the_only_good_one(tmp_path):
    fit(tmp_path, 4, At(step3=largest_file(2000)), keep_last=1)
    largest_file(-1)()
    assert list(steps_in(tmp_path)) == [2] and damage(tmp_path / "last.ckpt") == ""


def test_loggers_hear_of_checkpoints(tmp_path):
    heard = []

    class Listening(StepCheckpoint):
        def _save_last_checkpoint(self, trainer, *candidates):
            super()._save_last_checkpoint(trainer, *candidates)
            heard.append((trainer.global_step, Path(self.last_model_path).name))

    fit(tmp_path, 4, Listening(tmp_path, 2))
    assert heard == [(2, "last.ckpt"), (4, "last.ckpt")]
