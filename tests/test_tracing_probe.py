"""FlowProbe: its sets, its figures, its account of time, and that training never notices it."""

import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint

from data.types import PointPairs
from doors.stopping import BestByProbe, LastCheckpoint, StepCheckpoint
from lras.averaging import WeightEMA
from lras.checkpoint import save
from tests.fake_datasets import write_flow_pair
from tests.reference.slow_probe_scores import slow_probe_scores
from tests.test_plain_trainer import SCENE, plain_trainer, predictor_module, scenes
from tests.tiny_model import states_equal, tiny_model
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import TracerConfig
from tracing.probe import FlowProbe, flow_folder, probe_set, synthetic, tapvid
from tracing.probe.budget import Budget
from tracing.probe.pictures import probe_picture
from tracing.probe.ranks import answers_of_all_ranks
from tracing.probe.scores import Answer, baseline_scores, scores

ROOT = Path(__file__).resolve().parents[1]
TRACER = TracerConfig(num_masks=2)


class Recorder(L.pytorch.loggers.Logger):
    """A logger that keeps what it is told, pictures and tables too."""

    name, version = "recorder", "0"

    def __init__(self):
        super().__init__()
        self.metrics, self.images, self.tables = [], [], []

    def log_hyperparams(self, *args, **extra):
        pass

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))

    def log_image(self, key, images, step=None, caption=None):
        self.images.append((step, key, images, caption))

    def log_table(self, key, columns=None, data=None, step=None):
        self.tables.append((step, key, columns, data))


def held_out(**extra) -> PointPairs:
    return synthetic_pairs(SCENE, num_pairs=2, points_per_pair=2, seed=7, **extra)


def probe(**extra) -> FlowProbe:
    sets = {"held_out": probe_set([held_out()], "held_out")}
    return FlowProbe(sets, tracer=TRACER, **({"every_n_steps": 2, "max_share": None} | extra))


def answers_for(sets, seed=0) -> list[Answer]:
    """Answers near the truth with made-up peaks; some far off."""
    generator = torch.Generator().manual_seed(seed)
    answers = []
    for i, part in enumerate(sets.shown):
        count = part.points.shape[1]
        noise = torch.randn(count, 2, generator=generator) * 3
        peak = torch.rand(count, generator=generator, dtype=torch.float64)
        flipped = torch.randint(0, 3, (count,), generator=generator)
        answers.append(Answer(i, part.target[0] + noise, peak, flipped))
    return answers


# --- what it logs ------------------------------------------------------------------------------


def test_every_figure_pictures_and_a_table_are_logged_at_the_same_queries_each_time(tmp_path):
    recorder, watcher = Recorder(), probe(pictures=2)
    plain_trainer(4, watcher, logger=recorder, default_root_dir=tmp_path).fit(
        predictor_module(), scenes(4)
    )
    probed = {step: m for step, m in recorder.metrics if "flow/held_out/epe" in m}
    assert list(probed) == [0, 2, 4]
    asked = "epe median delta_avg ad hit peak_kl flipped_codes floor seconds zero_epe dis_epe"
    assert {f"flow/held_out/{name}" for name in asked.split()} <= probed[0].keys()
    assert any("/epe_background_4-8px" in key for key in probed[0])
    assert probed[0].keys() == probed[2].keys() - {"probe/share_of_training"}  # fixed columns
    assert [(step, key) for step, key, *_ in recorder.images] == [
        (step, "flow/held_out/picture") for step in (0, 2, 4)
    ]
    first, last = recorder.images[0][2], recorder.images[-1][2]
    assert len(first) == 2 and first[0].dtype == np.uint8 and first[0].shape[2] == 3
    assert first[0].shape == last[0].shape
    side = first[0].shape[0]
    assert np.array_equal(first[0][0, :side], last[0][0, :side])  # the same frame
    step, key, columns, rows = recorder.tables[-1]
    assert (step, key, len(rows)) == (4, "flow/table", 3)
    assert [row[columns.index("step")] for row in rows] == [0, 2, 4]
    assert json.loads((tmp_path / "probe.json").read_text()) == watcher.history


def test_scores_equal_slow_loops_over_single_points():
    sets = probe_set([synthetic_pairs(SCENE, 4, 3, seed=3, visible_only=False)], "x", input_px=32)
    answers = answers_for(sets)
    figures, slow = scores(sets, answers, patch_px=4), slow_probe_scores(sets, answers, patch_px=4)
    assert slow.keys() <= figures.keys()
    for name, value in slow.items():
        assert figures[name] == pytest.approx(value, abs=1e-5), name


def test_answers_are_scored_in_pixels_of_the_frames_as_stored(tmp_path):
    write_flow_pair(tmp_path / "a", size=(24, 48), shift=(4, 2))
    sets = flow_folder(tmp_path, points_per_pair=3, input_px=16)
    assert sets.shown[0].frame0.shape[-2:] == (16, 16) and sets.hw == [(24, 48)]
    still = [
        Answer(0, sets.shown[0].points[0], torch.ones(3).double(), torch.ones(3, dtype=torch.long))
    ]
    figures = scores(sets, still, patch_px=4) | baseline_scores(sets, 4, "patch", 4)
    assert figures["epe"] == pytest.approx(math.hypot(4, 2), abs=1e-4)
    assert figures["epe"] == pytest.approx(figures["zero_epe"], abs=1e-4)
    assert figures["ratio_to_zero"] == pytest.approx(1, abs=1e-4)
    at_256 = math.hypot(4 * 256 / 48, 2 * 256 / 24)
    assert figures["ad"] == pytest.approx(at_256 / 2, abs=1e-3)  # the query frame counts with 0


def test_occlusion_is_judged_by_a_threshold_that_other_pairs_chose():
    pairs = synthetic_pairs(SCENE, 6, 4, seed=5, visible_only=False)
    sets = probe_set([pairs], "x")
    telling = [
        Answer(i, part.target[0], part.visible[0].double(), torch.ones(4, dtype=torch.long))
        for i, part in enumerate(sets.shown)
    ]
    assert 0 < sets.num_visible < sets.num_points
    figures = scores(sets, telling, patch_px=4)
    assert figures["oa"] == 1 and figures["aj"] == 1  # a peak that tells is used
    mute = [Answer(a.part, a.xy, torch.ones(4).double(), a.flipped_codes) for a in telling]
    figures = scores(sets, mute, patch_px=4)
    assert figures["oa"] < 1  # one that does not, cannot be
    in_view = probe_set([held_out()], "x")
    assert not {"oa", "aj"} & scores(in_view, answers_for(in_view), 4).keys()  # nothing to tell


def test_a_picture_marks_query_truth_and_answer_and_survives_answers_that_are_no_numbers():
    pair = probe_set([held_out()], "x").shown[0]
    maps = torch.zeros(2, 4, 4)
    maps[:, 1, 2] = 1
    plain = probe_picture(pair, pair.target[0], maps)
    assert plain.shape == (256, 3 * 256 + 12, 3)
    lost = probe_picture(pair, torch.full((2, 2), math.nan), maps * math.nan)
    assert lost.shape == plain.shape and not np.array_equal(lost, plain)


# --- that it changes nothing -------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{}, {"weights": "ema"}], ids=["raw", "ema"])
def test_training_never_notices_the_probe_validation_included(tmp_path, extra):
    def trained(*callbacks):
        torch.manual_seed(0)
        module = predictor_module()
        ema = [EMAWeightAveraging(decay=0.5)] if extra else []
        plain_trainer(
            6, *ema, *callbacks, default_root_dir=tmp_path, val_check_interval=3
        ).fit(module, scenes(6))  # fmt: skip
        return module, torch.get_rng_state()

    watcher = probe(**extra)
    (with_probe, random_with), (without, random_without) = trained(watcher), trained()
    assert states_equal(with_probe, without)
    assert torch.equal(random_with, random_without)
    assert [point["step"] for point in watcher.history] == [0, 2, 3, 4, 6]


def test_averaged_weights_are_probed_where_something_averages_them(tmp_path):
    def figures(module, *callbacks, **extra):
        watcher = probe(**extra)
        trainer = plain_trainer(6, *callbacks, watcher, default_root_dir=tmp_path)
        trainer.fit(module, scenes(6))
        return watcher

    frozen = EMAWeightAveraging(decay=1.0)  # stays at the first step's weights
    ema = figures(predictor_module(), frozen, weights="ema").history
    raw = figures(predictor_module()).history
    key = "flow/held_out/peak_kl"
    assert ema[0][key] == raw[0][key] and ema[-1][key] != raw[-1][key]
    with pytest.raises(ValueError, match=r"callbacks=\[ema,default\]"):
        figures(predictor_module(), weights="ema")


@pytest.mark.slow
def test_a_compiled_predictor_is_probed_like_a_plain_one(tmp_path):
    histories = []
    for compiled in (False, True):
        module, watcher = predictor_module(), probe()
        if compiled:
            module.predictor.compile(backend="aot_eager")
        plain_trainer(2, watcher, default_root_dir=tmp_path).fit(module, scenes(2))
        histories.append([point["flow/held_out/epe"] for point in watcher.history])
    assert histories[0] == pytest.approx(histories[1], abs=1e-3)


def test_checkpoints_and_early_stopping_can_watch_any_score(tmp_path):
    key = "flow/held_out/peak_kl"
    best = ModelCheckpoint(
        tmp_path / "ckpt", monitor=key, mode="max", every_n_train_steps=2, filename="{step}"
    )
    stop = EarlyStopping(monitor=key, mode="min", patience=1, min_delta=1e9)
    watcher = probe()
    trainer = plain_trainer(
        12, watcher, stop, best, enable_checkpointing=True, default_root_dir=tmp_path,
        val_check_interval=2,
    )  # fmt: skip
    trainer.fit(predictor_module(), scenes(12))
    assert trainer.global_step == 4  # nothing ever improves by 1e9 nats
    peaks = {point["step"]: point[key] for point in watcher.history if point["step"]}
    assert best.best_model_score.item() == pytest.approx(max(peaks.values()), rel=1e-5)
    state = torch.load(best.best_model_path, weights_only=True)["callbacks"]
    kept = next(value for name, value in state.items() if "FlowProbe" in name)
    assert [point["step"] for point in kept["history"]] == [
        s for s in (0, 2, 4) if s <= int(best.best_model_path.split("step=")[1][:-5])
    ]


def test_the_best_checkpoint_is_saved_at_a_probed_step_under_its_own_score(tmp_path):
    key = "flow/held_out/peak_kl"
    best = BestByProbe(dirpath=tmp_path, monitor=key, mode="max", save_top_k=1, filename="best")
    watcher = probe(every_n_steps=3)
    plain_trainer(8, watcher, best, enable_checkpointing=True, default_root_dir=tmp_path).fit(
        predictor_module(), scenes(8)
    )
    peaks = {point["step"]: point[key] for point in watcher.history if point["step"]}
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert set(peaks) == {3, 6, 8}
    assert kept["global_step"] == max(peaks, key=peaks.get)
    assert best.best_model_score.item() == pytest.approx(max(peaks.values()))


def test_whoever_watches_a_score_finds_the_last_one_after_a_resume(tmp_path):
    class Look(L.Callback):
        seen: ClassVar[list] = []

        def on_train_batch_start(self, trainer, *_):
            self.seen.append(int(trainer.callback_metrics["probe/step"]))

    trainer = plain_trainer(3, probe(), default_root_dir=tmp_path)
    trainer.fit(predictor_module(), scenes(6))
    trainer.save_checkpoint(tmp_path / "at3.ckpt")
    plain_trainer(6, probe(), Look(), default_root_dir=tmp_path).fit(
        predictor_module(), scenes(6), ckpt_path=tmp_path / "at3.ckpt", weights_only=True
    )
    assert Look.seen == [3, 4, 4]


def test_averaged_weights_at_the_end_do_not_replace_the_raw_ones_to_go_on_from(tmp_path):
    last = tmp_path / "last.ckpt"
    steps = StepCheckpoint(
        dirpath=tmp_path, every_n_train_steps=500, save_last=True, save_top_k=0,
        enable_version_counter=False,
    )  # fmt: skip
    callbacks = (LastCheckpoint(last), WeightEMA(decay=0.5), steps)
    trainer = plain_trainer(6, *callbacks, enable_checkpointing=True, default_root_dir=tmp_path)
    trainer.fit(predictor_module(), scenes(6))
    state = torch.load(last, weights_only=True)
    raw, averaged = state["current_model_state"], state["state_dict"]
    name = "predictor.final_norm.weight"
    assert not torch.equal(raw[name], averaged[name])


# --- its account of time -----------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_budget_allows_a_visit_only_if_it_and_the_last_one_stay_within_the_share():
    clock = Clock()
    budget = Budget(0.1, clock)
    budget.start()

    def visit(seconds):
        with budget.spending():
            clock.now += seconds

    visit(1)
    clock.now += 29.9
    assert not budget.affords(1.0)  # 1 spent, 1 now, 1 at the end: 3 of 29.9
    assert budget.affords(0.5)  # half way through, half of the first and the last counts
    clock.now += 0.2
    assert budget.affords(1.0)
    visit(1)
    assert budget.share == pytest.approx(2 / 30.1)
    assert not budget.affords(1.0)
    twin = Budget(0.1, clock)
    twin.load_state_dict(budget.state_dict())
    twin.start()
    clock.now += 9.8
    assert not twin.affords(1.0)
    clock.now += 0.2
    assert twin.affords(1.0) and budget.affords(1.0)
    visit(30)  # once the machine was busy: paid for, but not what the next one is taken to cost
    clock.now += 300
    assert budget.affords(1.0)
    assert Budget(None).affords(1.0)


def test_visits_are_evenly_spread_over_a_run_and_keep_to_the_share_at_its_end():
    clock = Clock()
    budget = Budget(0.05, clock)
    budget.start()
    steps, visited = 1000, []
    for step in range(steps + 1):
        if step in (0, steps) or budget.affords(step / steps):
            visited.append(step)
            with budget.spending():
                clock.now += 5.0
        clock.now += 1.0
    assert budget.spent <= 0.05 * 1000 + 1e-9
    gaps = [b - a for a, b in pairwise(visited)]
    assert len(visited) == 9 and max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize("share", [0.0, -0.1])
def test_budget_refuses_a_share_that_allows_nothing(share):
    with pytest.raises(ValueError, match="positive share"):
        Budget(share)


def test_a_share_thins_out_the_probes_between_the_first_and_the_last(tmp_path):
    def steps_probed(**extra):
        watcher = probe(max_share=1e-6, **extra)
        trainer = plain_trainer(6, watcher, default_root_dir=tmp_path, val_check_interval=3)
        trainer.fit(predictor_module(), scenes(6))
        return [point["step"] for point in watcher.history]

    assert steps_probed() == [0, 6]
    assert steps_probed(at_validation_end="always") == [0, 3, 6]


def test_a_resumed_run_keeps_history_and_account(tmp_path):
    first = probe()
    trainer = plain_trainer(4, first, default_root_dir=tmp_path)
    trainer.fit(predictor_module(), scenes(8))
    trainer.save_checkpoint(tmp_path / "at4.ckpt")
    second = probe()
    plain_trainer(8, second, default_root_dir=tmp_path).fit(
        predictor_module(), scenes(8), ckpt_path=tmp_path / "at4.ckpt", weights_only=True
    )
    assert [point["step"] for point in second.history] == [0, 2, 4, 6, 8]
    assert second.history[:3] == first.history
    assert second.budget.spent > first.budget.spent


# --- bad input ---------------------------------------------------------------------------------


def test_sets_that_are_missing_or_empty_are_named_before_training(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        flow_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        flow_folder(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"real_pairs\.root=DIR"):
        flow_folder(None)
    with pytest.raises(ValueError, match=r"tapvid\.path=FILE"):
        tapvid(None)
    with pytest.raises((ValueError, FileNotFoundError), match=r"nowhere\.pkl"):
        tapvid(tmp_path / "nowhere.pkl")
    hidden = held_out()
    hidden.visible.zero_()
    with pytest.raises(ValueError, match="no point of dark has a visible target"):
        probe_set([hidden], "dark")
    with pytest.raises(ValueError, match="has no set"):
        FlowProbe({"easy": None})
    with pytest.raises(ValueError, match="add easy to probe_set"):
        FlowProbe({"easy": {"num_pairs": 4}})
    with pytest.raises(ValueError, match=r"probe set far: only 0 of"):
        FlowProbe({"far": partial(synthetic, SCENE, 2, 2, min_motion_px=100.0)})
    with pytest.raises(ValueError, match="every_n_steps=0"):
        probe(every_n_steps=0)


def test_weights_that_are_no_numbers_are_told_and_training_goes_on(tmp_path, caplog):
    class Poison(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            torch.nn.init.constant_(module.predictor.final_norm.weight, math.nan)

    watcher = probe(at_validation_end="never")
    trainer = plain_trainer(4, Poison(), watcher, default_root_dir=tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer.fit(predictor_module(), scenes(4))
    assert trainer.global_step == 4
    assert "have a KL that is no number" in caplog.text
    assert math.isfinite(watcher.history[0]["flow/held_out/epe"])
    assert math.isnan(watcher.history[-1]["flow/held_out/epe"])


def test_a_probe_that_fails_is_told_and_training_goes_on(tmp_path, caplog, monkeypatch):
    watcher = probe()
    monkeypatch.setattr(watcher, "cfg", None)
    monkeypatch.setattr(
        "tracing.probe.callback.KLTracer.__call__",
        lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")),
    )
    trainer = plain_trainer(2, watcher, default_root_dir=tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer.fit(predictor_module(), scenes(2))
    assert trainer.global_step == 2
    assert "RuntimeError on rank 0: out of memory" in caplog.text
    assert watcher.history[-1] == {"step": 2}


def test_a_set_that_does_not_fit_the_model_stops_the_run_at_its_first_probe(tmp_path):
    scene = replace(SCENE, size=18)  # no whole patches
    watcher = FlowProbe({"odd": synthetic(scene, 2, 2)}, tracer=TRACER)
    trainer = plain_trainer(2, watcher, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="the probe set odd does not fit the model: ValueError"):
        trainer.fit(predictor_module(), scenes(2))


def test_a_rank_alone_traces_all_parts_and_reports_its_failure():
    def trace(part):
        if part == 2:
            raise ValueError("no")
        nothing = torch.zeros(0)
        return Answer(part, torch.zeros(0, 2), nothing, nothing.long())

    answers, problem = answers_of_all_ranks([0, 1], trace)
    assert [answer.part for answer in answers] == [0, 1] and problem == ""
    answers, problem = answers_of_all_ranks([0, 2], trace)
    assert answers == [] and problem == "ValueError on rank 0: no"


# --- real data ---------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_pairs_and_tapvid_pickles_become_sets(shared_root):
    real = flow_folder(shared_root / "data/flow_gt", points_per_pair=2, input_px=64)
    assert len(real.shown) == 10 and real.num_visible == 20
    assert {part.frame0.shape[-1] for part in real.shown} == {64}
    short = tapvid(shared_root / "data/tracks/tapvid_pairs_short.pkl", 4, 3, input_px=64)
    assert len(short.shown) == 4 and set(short.hw) == {(480, 854)}
    again = tapvid(shared_root / "data/tracks/tapvid_pairs_short.pkl", 4, 3, input_px=64)
    assert torch.equal(short.stored[3].points, again.stored[3].points)


# --- several ranks -----------------------------------------------------------------------------


def on_ranks(world: int, script: str, *words: object) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command = [sys.executable, *launcher, str(ROOT / script), *map(str, words)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_ranks_find_what_one_finds_to_the_bit(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        for weight in model.predictor.blocks.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.3)
    save(model.eval(), tmp_path / "export")
    found = []
    for world in (1, 2):
        on_ranks(world, "benchmarks/probe_on_ranks.py", tmp_path, tmp_path / f"{world}.json")
        found.append(json.loads((tmp_path / f"{world}.json").read_text()))
    one, two = found
    assert (one.pop("world"), two.pop("world")) == (1, 2)
    timed = {key for key in one["scores"] if key.endswith("/seconds")}
    for each in found:
        for key in timed:
            del each["scores"][key]
    assert one == two


@pytest.mark.slow
def test_ranks_that_shard_the_weights_or_fail_still_meet(tmp_path):
    on_ranks(2, "tests/sharded_probe.py", tmp_path)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["sharded_equals_whole"] and first["was_sharded"]
    assert first["problem"] == "ValueError on rank 1: only here"
