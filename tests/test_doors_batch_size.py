"""A batch size of auto is the largest power of two whose plan fits, and a run keeps it."""

import json
import logging
from functools import cache

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from doors import batch_size, ranks
from doors.batch_size import (
    CHOSEN,
    Group,
    bytes_for_one,
    fitting_pairs,
    largest_power,
    planned_bytes,
    set_batch_sizes,
    tried,
)
from doors.estimate import Work
from doors.memory_plan import memory_plan
from tests.distributed_runs import train
from tests.fake_datasets import write_clip_shards
from tests.test_doors_dry_run import composed

STAGE = "data.stages.1.batch"
SMOKE = ("experiment=smoke", f"{STAGE}=auto")
WORK = Work(steps=1, batch=1, size=16, share=1.0, stage=None)
ONE, BASE = 1000, 500  # bytes of a pair and of what is always there, in the made-up plan


@pytest.fixture
def machine(monkeypatch):
    """Plans that are a straight line, and a setter of the bytes of a process."""
    monkeypatch.setattr(
        batch_size, "planned_bytes", lambda cfg, work, pairs, group: BASE + ONE * pairs
    )

    def of(size: int) -> None:
        monkeypatch.setattr(batch_size, "bytes_for_one", lambda cfg, group: size)

    of(100 * ONE)
    return of


def chosen(cfg, out, key: str = STAGE) -> int:
    set_batch_sizes(cfg, out)
    return OmegaConf.select(cfg, key)


# --- the bound ---------------------------------------------------------------------------------


def test_the_plan_of_the_batch_fits_and_that_of_twice_as_many_does_not(monkeypatch):
    cfg, group = composed(*SMOKE, "batch_memory=1"), Group(1, 1)
    plan = cache(lambda pairs: memory_plan(cfg, WORK, pairs))
    monkeypatch.setattr(batch_size, "memory_plan", lambda cfg, work, pairs: plan(pairs))
    found = []
    for budget in (plan(2).peak - 1, 3_000_000, 12_000_000):
        monkeypatch.setattr(batch_size, "bytes_for_one", lambda *_, size=budget: size)
        pairs = fitting_pairs(cfg, STAGE, group)
        assert plan(pairs).peak <= budget < plan(2 * pairs).peak
        found.append(pairs)
    assert found[0] == 1 < found[1] < found[2]


@pytest.mark.parametrize("bend", [0, 1, 2], ids=["straight", "steeper", "flatter"])
@pytest.mark.parametrize("most", [1, 5, 65_536])
def test_the_largest_power_is_found_on_lines_that_bend(bend, most):
    curves = (lambda n: 10 + 3 * n, lambda n: 10 + n * n, lambda n: 10 + int(40 * n**0.5))
    for budget in (10, 13, 50, 51, 1000, 10**6):
        peak, asked = curves[bend], []
        got = largest_power(lambda n: asked.append(n) or peak(n), budget, most)  # noqa: B023
        fits = [2**n for n in range(17) if 2**n <= most and peak(2**n) <= budget]
        assert got == max(fits, default=0)
        assert bend or len(asked) < 6


def test_less_than_a_pair_is_refused_with_what_it_needs(machine, tmp_path):
    machine(ONE)
    with pytest.raises(ValueError, match=r"1 pair\(s\) of 16 px take 1.5e-06 GB.*is 9e-07 GB; try"):
        set_batch_sizes(composed(*SMOKE), tmp_path)


def test_averaged_weights_and_the_buckets_of_several_processes_are_counted(monkeypatch):
    cfg = composed(*SMOKE)
    plan = memory_plan(cfg, WORK, 2)
    monkeypatch.setattr(batch_size, "memory_plan", lambda cfg, work, pairs: plan)
    assert planned_bytes(cfg, WORK, 2, Group(1, 1)) == plan.peak
    assert planned_bytes(cfg, WORK, 2, Group(2, 1)) == plan.peak + plan.gradients
    cfg = composed(*SMOKE, "callbacks=[ema,default]")
    both = plan.gradients + plan.weights
    assert planned_bytes(cfg, WORK, 2, Group(2, 1)) == plan.peak + both
    cfg = composed(*SMOKE, "trainer=fsdp_cpu")
    own = planned_bytes(cfg, WORK, 2, Group(2, 1))
    assert planned_bytes(cfg, WORK, 2, Group(8, 1)) < own


def test_processes_of_a_machine_and_its_container_share_what_is_free(tmp_path, monkeypatch):
    cfg, gigabyte = composed(*SMOKE), 10**9
    monkeypatch.setattr(batch_size, "device_bytes", lambda _: 64 * gigabyte)
    monkeypatch.setattr(batch_size, "CGROUP", tmp_path)
    assert bytes_for_one(cfg, Group(4, 1, nodes=2)) == 32 * gigabyte
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{3 * gigabyte}\n")
    assert bytes_for_one(cfg, Group(1, 1)) == 64 * gigabyte
    (tmp_path / "memory.max").write_text(f"{8 * gigabyte}\n")
    assert bytes_for_one(cfg, Group(1, 1)) == 5 * gigabyte


# --- what is written where ---------------------------------------------------------------------


def test_a_stages_batch_is_that_of_all_processes_and_their_accumulated_batches(machine, tmp_path):
    words = (*SMOKE, "trainer=ddp_cpu", "trainer.devices=2", "+trainer.accumulate_grad_batches=3")
    cfg = composed(*words)
    assert chosen(cfg, tmp_path) == 64 * 2 * 3
    assert cfg.data.stages[0].batch == 8  # a number is left alone


def test_streams_divide_the_batch_that_is_chosen(machine, tmp_path):
    assert chosen(composed(*SMOKE, "data.streams=12"), tmp_path) == 48  # 12 * 4


def test_clips_are_planned_at_their_own_size_and_never_exceed_the_data(
    machine, tmp_path, monkeypatch
):
    for split in ("train", "val"):
        write_clip_shards(tmp_path / split, num_clips=10, size=24)
    seen = []
    monkeypatch.setattr(
        batch_size, "planned_bytes", lambda cfg, work, pairs, group: seen.append(work) or pairs
    )
    cfg = composed("data=clips", f"data.root={tmp_path}", "data.batch_size=auto", "data.max_gap=1")
    assert chosen(cfg, tmp_path, "data.batch_size") == 8
    assert {(work.size, work.share) for work in seen} == {(24, 1.0)}


def kept_run(folder, **batches):
    """A run that has a checkpoint and says what it was trained with."""
    cfg = composed("experiment=smoke", *(f"{k}={v}" for k, v in batches.items()))
    (folder / "config").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(cfg, folder / "config" / "resolved.yaml", resolve=False)
    (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def test_a_resumed_run_and_a_branch_keep_the_size_whatever_memory_there_is(machine, tmp_path):
    run = kept_run(tmp_path / "run", **{STAGE: 24})
    machine(10**9)
    assert chosen(composed(*SMOKE, "resume=auto"), run) == 24
    for source in (run, run / "checkpoints" / "last.ckpt"):
        words = (*SMOKE, f"schedule.decay_from={source}", "schedule.decay_steps=2")
        assert chosen(composed(*words), tmp_path / "other") == 24
    assert chosen(composed(*SMOKE), tmp_path / "other") == 65_536


def test_pairs_of_a_process_follow_the_processes_of_a_resumed_run(machine, tmp_path):
    words = ("data=clips", "data.root=x", "data.batch_size=6", "trainer=ddp_cpu")
    run = kept_run(tmp_path / "run", **{STAGE: 8})
    then = composed(*words)
    OmegaConf.save(then, run / "config" / "resolved.yaml")
    words = (*words[:2], "data.batch_size=auto", "resume=auto")
    assert chosen(composed(*words), run, "data.batch_size") == 12
    four = composed(*words, "trainer=ddp_cpu", "trainer.devices=4")
    assert chosen(four, run, "data.batch_size") == 3
    with pytest.raises(ValueError, match="12 pairs a step, which do not divide among 5"):
        set_batch_sizes(composed(*words, "trainer=ddp_cpu", "trainer.devices=5"), run)


def test_a_run_without_a_number_is_no_run_to_keep_one_of(machine, tmp_path):
    run = kept_run(tmp_path / "run")
    OmegaConf.save(composed("data=clips", "data.root=x"), run / "config" / "resolved.yaml")
    with pytest.raises(ValueError, match=r"has data.stages.1.batch=None; set a number"):
        set_batch_sizes(composed(*SMOKE, "resume=auto"), run)


# --- several processes -------------------------------------------------------------------------


def test_ranks_of_torchrun_take_what_fits_the_smallest(machine, tmp_path, monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(ranks, "_agents_store", lambda fix: store)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, pairs in ((1, 4), (2, 32)):
        store.set(f"lras/0/{STAGE}/{rank}", str(pairs))
    monkeypatch.setenv("RANK", "0")
    cfg = composed(*SMOKE, "trainer=ddp_cpu", "trainer.devices=3")
    assert chosen(cfg, tmp_path) == 4 * 3
    assert store.get(f"lras/0/{STAGE}/0") == b"64"


def test_processes_that_lightning_starts_take_the_first_ones_choice(machine, tmp_path, monkeypatch):
    words = (*SMOKE, "trainer=ddp_cpu")
    assert chosen(composed(*words), tmp_path) == 128
    machine(10 * ONE)  # less is free by now
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert chosen(composed(*words), tmp_path) == 128
    monkeypatch.setenv("LOCAL_RANK", "0")  # left behind by an earlier training of a sweep
    assert chosen(composed(*words), tmp_path) == 16


@pytest.mark.parametrize("tasks, nodes", [(2, 1), (1, 2)])
def test_processes_that_cannot_agree_are_told_what_to_set(
    tasks, nodes, machine, tmp_path, monkeypatch
):
    monkeypatch.setenv("SLURM_NTASKS", str(tasks))
    cfg = composed(*SMOKE, "trainer=ddp_cpu", f"trainer.num_nodes={nodes}")
    with pytest.raises(ValueError, match=rf"cannot agree.*set {STAGE}={64 * 2 * nodes},"):
        set_batch_sizes(cfg, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_train_with_the_size_that_is_written_down(launcher, tmp_path):
    words = (*SMOKE, "batch_memory=0.0005", "callbacks=[]")
    done = train(tmp_path / "run", *words, world=2, launcher=launcher)
    assert done.returncode == 0, done.stderr
    cfg = OmegaConf.load(tmp_path / "run" / "config" / "resolved.yaml")
    size = cfg.data.stages[1].batch
    assert size.bit_count() == 1 and size >= 2 and f"{STAGE}=auto: {size // 2} pairs" in done.stdout


# --- on a GPU ----------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that takes so many pairs and no more; returns the sizes it was tried with."""
    asked = []

    def timed(cfg, work, pairs, device, steps):
        asked.append(pairs)
        if pairs > 10:
            raise torch.OutOfMemoryError("full")
        return 0.0

    monkeypatch.setattr(batch_size, "timed", timed)
    monkeypatch.setattr(torch.cuda, "device", lambda index: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return asked


def test_a_gpu_that_runs_out_of_memory_is_given_half_with_one_warning(gpu, caplog):
    cfg = composed(*SMOKE)
    with caplog.at_level(logging.WARNING):
        assert tried(cfg, WORK, 64, 1) == 8
    assert gpu == [64, 32, 16, 8]
    assert [r.getMessage() for r in caplog.records] == [
        "64 pairs were planned to fit the GPU but 8 do; taking these"
    ]
    caplog.clear()
    assert tried(cfg, WORK, 8, 1) == 8 and not caplog.records


def test_a_gpu_that_takes_no_batch_at_all_is_said(gpu):
    with pytest.raises(ValueError, match="planned to fit this GPU but do not; lower batch_memory"):
        tried(composed(*SMOKE), WORK, 48, 12)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_said():
    with pytest.raises(ValueError, match="there is none here; set a number"):
        bytes_for_one(composed(*SMOKE, "trainer=gpu"), Group(1, 1))


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "all"])
def test_a_share_of_the_memory_is_above_0_and_up_to_1(share, machine, tmp_path):
    with pytest.raises(ValueError, match=f"batch_memory={share} is no share"):
        set_batch_sizes(composed(*SMOKE, f"batch_memory={share}"), tmp_path)


def test_another_word_than_auto_is_no_number(tmp_path):
    with pytest.raises(ValueError, match=f"{STAGE}=most is no number of pairs; set one, or auto"):
        set_batch_sizes(composed("experiment=smoke", f"{STAGE}=most"), tmp_path)


def test_without_auto_nothing_is_planned_or_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "memory_plan", None)
    cfg = composed("experiment=smoke")
    before = json.dumps(OmegaConf.to_container(cfg, resolve=False))
    set_batch_sizes(cfg, tmp_path)
    set_batch_sizes(composed(), tmp_path)  # no experiment is named: another door says so
    assert json.dumps(OmegaConf.to_container(cfg, resolve=False)) == before
    assert CHOSEN not in batch_size.os.environ
