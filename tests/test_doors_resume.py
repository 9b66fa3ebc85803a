"""resume=: the same folder, the same numbers, and one sentence where it cannot be."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from doors.checked_files import damage, write_checked
from doors.checkpoints import point_to
from doors.resume import CONFIG, checkpoint_to_resume, differences, step_of, write_config
from doors.run_folder import LAST, newest_run
from lras.checkpoint import load
from tests.distributed_runs import losses, train
from tests.tiny_model import states_equal

# --- without training --------------------------------------------------------------------------


def config(**changes) -> DictConfig:
    cfg = {
        "resume": "auto", "init_from": None,
        "model": {"dim": 8, "depth": 2}, "optimizer": {"lr": 1},
        "data": {"stages": [{"batch": 8}, {"batch": 4}], "root": "a", "streams": None},
        "schedule": {"warmup_steps": 3}, "seed": 0, "quantizer": None, "quantizer_steps": 4,
        "trainer": {"precision": "32-true", "max_steps": 12, "max_time": None}, "threads": 1,
    }  # fmt: skip
    return OmegaConf.merge(OmegaConf.create(cfg), OmegaConf.create(changes))


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with a config and something in place of a checkpoint."""
    folder = tmp_path / "some-seed0"
    (folder / LAST).parent.mkdir(parents=True)
    torch.save({"global_step": 6}, folder / LAST)
    write_config(config(), folder, 0)
    return folder


def test_a_run_with_the_same_config_goes_on(run):
    free = {"threads": 2, "trainer": {"max_time": "x"}, "data": {"root": "b", "streams": 2}}
    moved = {"data": {"root": ["b", "c"], "cache_gb": 9, "multiprocessing_context": "spawn"}}
    other = {"data": {"accept_other_plan": True, "window": 5, "weights": [1, 2]}}
    parts = {"trainer": {"accumulate_grad_batches": 3}}
    for cfg in (
        config(),
        config(resume=str(run)),
        *(config(**c) for c in (free, moved, other, parts)),
    ):
        assert checkpoint_to_resume(cfg, run) == (run / LAST).resolve()
    assert step_of(run / LAST) == 6


def test_the_config_of_a_resumed_run_stands_beside_the_first(run):
    write_config(config(threads=2), run, 6)
    assert OmegaConf.load(run / CONFIG).threads == 1
    assert OmegaConf.load(run / "config" / "resumed-at-0000006.yaml").threads == 2
    assert len(list((run / "config").iterdir())) == 2


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"seed": 1}, r"another config: seed \(0 there, 1 here\); set"),
        ({"quantizer": "Q"}, r"quantizer \(None there, Q here\)"),
        ({"data": {"stages": [{"batch": 9}]}}, r"stages\.0\.batch \(8 there, 9 here\), "),
        ({"trainer": {"precision": "16"}}, r"trainer\.precision"),
        ({"data": {"window": 5}}, r"data\.window"),
        (
            {
                "model": {"dim": 1, "depth": 1},
                "optimizer": {"lr": 2},
                "seed": 5,
                "schedule": {"a": 1},
            },
            r"model\.dim .* model\.depth .* optimizer\.lr .*here\) and 2 more; set",
        ),
    ],
)
def test_another_config_is_refused_by_the_names_of_three_keys(changes, sentence, run):
    with pytest.raises(ValueError, match=sentence):
        checkpoint_to_resume(config(**changes), run)


def test_differences_are_found_in_lists_and_in_what_only_one_side_has():
    before, now = {"a": [1, {"b": 2}], "c": 3}, {"a": [1, {"b": 4}, 5], "d": 6}
    found = [("a.1.b", 2, 4), ("a.2", None, 5), ("c", 3, None), ("d", None, 6)]
    assert differences(before, now) == found and differences(before, before) == []


def test_a_new_run_never_writes_into_one_that_is_there(run):
    with pytest.raises(ValueError, match="holds a run already; add resume=auto"):
        checkpoint_to_resume(config(resume=None), run)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("none", "is no folder"),
        ("unborn", "stopped before its first checkpoint"),
        ("other", r"leave that out"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused(name, sentence, run, tmp_path):
    (tmp_path / "unborn").mkdir()
    shutil.copytree(run, tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=sentence):
        checkpoint_to_resume(config(resume=str(tmp_path / name)), run)


def test_resume_and_init_from_exclude_each_other(run):
    with pytest.raises(ValueError, match="pass one of the two"):
        checkpoint_to_resume(config(init_from="x"), run)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a checkpoint at all"])
def test_a_damaged_checkpoint_is_refused(content, run):
    (run / LAST).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        step_of(run / LAST)


@pytest.fixture
def three(run) -> Path:
    """The run with checkpoints of steps 2, 4 and 6, the last of which ``last`` leads to."""
    (run / LAST).unlink()
    for step in (2, 4, 6):
        path = run / "checkpoints" / f"step_{step:07d}.ckpt"
        write_checked(path, partial(torch.save, {"global_step": step, "pad": torch.ones(1000)}))
    point_to(run / LAST, path)
    return run


@pytest.mark.parametrize("harmed, left", [([6], 4), ([6, 4], 2), ([4], 6)])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(harmed, left, three, caplog):
    for step in harmed:
        path = three / "checkpoints" / f"step_{step:07d}.ckpt"
        path.write_bytes(path.read_bytes()[:-100])
    assert step_of(checkpoint_to_resume(config(), three)) == left
    said = f"its checksum is another; going on from step_{left:07d}.ckpt, step {left}"
    assert (said in caplog.text) == (left != 6)
    assert all(f"step_{step:07d}.ckpt is not what" in caplog.text for step in harmed if left != 6)


def test_a_link_that_leads_nowhere_is_a_damaged_checkpoint_too(three, caplog):
    (three / LAST).resolve().unlink()
    assert newest_run(three.parent, 0) == three
    assert step_of(checkpoint_to_resume(config(), three)) == 4
    assert "is not there" in caplog.text


def test_where_all_checkpoints_are_damaged_a_sentence_names_them(three):
    for path in (three / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"gone on with \(.*6\.ckpt is empty.*; start a new run"):
        checkpoint_to_resume(config(), three)


def test_auto_starts_anew_and_names_runs_without_a_checkpoint(run, caplog):
    (run / LAST).unlink()
    fresh = run.with_name("new-seed0")
    with caplog.at_level("INFO"):
        assert checkpoint_to_resume(config(), fresh) is None
    assert "starting anew" in caplog.text
    assert f"{run} was stopped before its first checkpoint" in caplog.text


# --- through the door --------------------------------------------------------------------------

SMOKE = ("experiment=smoke", "trainer.precision=32-true", "trainer.log_every_n_steps=1")
SMOKE += ("~callbacks.progress", "callbacks.probe.max_share=null")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = train(folder, *SMOKE)
    assert done.returncode == 0, done.stderr
    return folder


def check_equal(folder: Path, whole: Path) -> None:
    """The run of 12 steps with an interruption is that without, in all it left behind."""
    assert states_equal(load(folder), load(whole))
    assert losses(folder) == losses(whole)
    assert (folder / LAST).resolve().name == "step_0000012.ckpt"
    assert {damage(path) for path in (folder / "checkpoints").glob("*.ckpt")} == {""}
    probed, undisturbed = (json.loads((f / "probe.json").read_text()) for f in (folder, whole))
    same = {point["step"]: point["flow/held_out/epe"] for point in probed}
    for point in undisturbed:
        assert same[point["step"]] == point["flow/held_out/epe"]


@pytest.mark.slow
def test_a_run_whose_time_was_up_goes_on_to_the_very_same_weights(whole, tmp_path):
    first = train(tmp_path / "run", *SMOKE, "trainer.max_time=00:00:00:00")
    assert first.returncode == 0 and "stopped at step 1 of 12" in first.stdout, first.stderr
    assert load(tmp_path / "run")  # an export is there
    done = train(tmp_path / "run", *SMOKE, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert "quantizer after" in first.stdout and "quantizer after" not in done.stdout
    check_equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(whole, tmp_path):
    kill = ("+callbacks.fail._target_=tests.interruptions.FailAt", "+callbacks.fail.step=8")
    kill += ("+callbacks.fail.rank=0", "+callbacks.fail.error=KILL")
    assert train(tmp_path / "run", *SMOKE, *kill).returncode < 0
    done = train(tmp_path / "run", *SMOKE, "resume=auto")
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_finished_run_is_left_alone(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    done = train(whole, *SMOKE, "resume=auto")
    assert done.returncode == 0 and "is finished (step 12 of 12)" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {whole / "train.log"}
