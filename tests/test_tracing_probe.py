"""FlowProbe: what it logs, who can watch it, and that training never notices it."""

import json
import math
from pathlib import Path
from typing import ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint

from data.synthetic import SceneConfig
from data.types import PointPairs
from doors.checkpoints import LastCheckpoint, StepCheckpoint
from doors.stopping import BestByProbe
from lras.averaging import WeightEMA
from tests.fake_datasets import write_flow_pair
from tests.reference.slow_probe_scores import slow_probe_scores
from tests.test_plain_trainer import SCENE, plain_trainer, predictor_module, scenes
from tests.tiny_model import states_equal
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import TracerConfig
from tracing.probe import FlowProbe, flow_folder, probe_set
from tracing.probe.pictures import probe_picture
from tracing.probe.scores import Answer, baseline_scores, scores
from tracing.probe.weights import probed_model

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
    wide = SceneConfig(size=32, max_motion_px=10.0, sprites=1, min_sprites=1, still=0.0)
    pairs = synthetic_pairs(wide, 8, 4, min_motion_px=0.0, seed=3, visible_only=False)
    sets = probe_set([pairs], "x", input_px=64)
    answers = answers_for(sets)
    figures, slow = scores(sets, answers, patch_px=4), slow_probe_scores(sets, answers, patch_px=4)
    assert slow.keys() <= figures.keys()
    bins = {name for name in slow if name.endswith("px")}
    assert bins == {name for name in figures if name.endswith("px")}
    assert len({name for name in bins if "_all_" in name}) >= 3  # or a bin's bounds mean nothing
    assert any("_sprites_" in name for name in bins)
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


def test_every_module_is_left_in_the_mode_it_was_found_in():
    module = predictor_module().train()
    module.predictor.blocks[0].eval()  # as a frozen part is
    before = [part.training for part in module.modules()]
    with probed_model(plain_trainer(1), module, "raw") as model:
        assert not any(part.training for part in model.modules())
    assert [part.training for part in module.modules()] == before and len(set(before)) == 2


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
    steps = StepCheckpoint(dirpath=tmp_path, every_n_train_steps=500)
    callbacks = (LastCheckpoint(last), WeightEMA(decay=0.5), steps)
    trainer = plain_trainer(6, *callbacks, enable_checkpointing=True, default_root_dir=tmp_path)
    trainer.fit(predictor_module(), scenes(6))
    state = torch.load(last, weights_only=True)
    raw, averaged = state["current_model_state"], state["state_dict"]
    name = "predictor.final_norm.weight"
    assert not torch.equal(raw[name], averaged[name])
