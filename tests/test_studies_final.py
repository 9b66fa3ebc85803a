"""What a card says of a model: errors, intervals and losses against answers known beforehand."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from data.curriculum import HeldOutScenes, Stage, SyntheticDataModule
from data.synthetic import SceneConfig
from lras.predictor_module import PredictorModule
from studies.budget import spent_at
from studies.final import (
    Final,
    curve_of,
    evaluated,
    figures_of,
    held_out_nats,
    origin_of,
    parameters_of,
)
from tests.tiny_model import tiny_model
from tracing.config import TracerConfig, Traces
from tracing.probe import ProbeSet, synthetic

SCENE = SceneConfig(size=16, max_motion_px=4.0, snap_px=4, still=0.0)
FINAL = Final(
    sets={},
    scene=SCENE,
    tracer=TracerConfig(num_masks=1),
    loss_batches=2,
    loss_batch=4,
    seed=3,
    max_batch=8,
)


class Knowing:
    """Answers with where every point went, in every other pair with it and ``off``."""

    name, needs_model = "knowing", False
    model = SimpleNamespace(patch_px=4, code_px=4)

    def __init__(self, pairs: ProbeSet, off: tuple[float, float] = (0.0, 0.0)) -> None:
        self.pairs, self.off = pairs, torch.tensor(off)

    def __call__(self, frame0, frame1, points, seed):
        part = seed - FINAL.seed
        xy = self.pairs.shown[part].target + part % 2 * self.off
        none = torch.zeros(xy.shape[:2])
        seen, flipped = none == 0, none.long() + 1
        return Traces(xy=xy, visible=seen, peak_kl=none.double() + 1, flipped_codes=flipped)


def queries(pairs: int = 8):
    return synthetic(SCENE, num_pairs=pairs, points_per_pair=2, min_motion_px=3.5, seed=5)


def test_true_answers_have_no_error_and_all_hit():
    asked = queries()
    told = figures_of(asked, Knowing(asked), FINAL, "cpu")
    assert (told.epe_px, told.epe_ci95_px, told.ad_px) == (0.0, (0.0, 0.0), 0.0)
    assert told.hit == told.delta_avg == 1.0 and told.points == asked.num_visible
    assert told.zero_epe_px >= 4.0 and told.floor_px < 4.0


def test_the_interval_is_over_pairs_that_fail_together():
    asked = queries()
    told = figures_of(asked, Knowing(asked, off=(3.0, 4.0)), FINAL, "cpu")
    visible = [part.visible.sum().item() for part in asked.shown]
    share = sum(visible[1::2]) / sum(visible)
    assert told.epe_px == pytest.approx(5 * share)
    low, high = told.epe_ci95_px
    # Of 8 pairs, each drawn wrong with that chance: about 5 * 2 * sqrt(1/4 / 8) to either side.
    assert 1.0 < told.epe_px - low < 2.5 and 1.0 < high - told.epe_px < 2.5
    assert told.hit == pytest.approx(1 - share)


def test_a_set_that_is_switched_off_is_left_out_and_the_others_are_traced():
    model = tiny_model()
    sets = {"easy": queries(2), "far": None}
    final = Final(**{**vars(FINAL), "sets": sets})
    (name, told), *others = evaluated(model, final, "cpu").items()
    assert (name, others) == ("easy", []) and told.zero_epe_px >= 4.0 and told.epe_px > 0


def test_the_loss_is_that_of_a_validation_on_the_same_scenes():
    model = tiny_model()
    loader = DataLoader(HeldOutScenes(SCENE, 2, 4, FINAL.seed), batch_size=None)
    module = PredictorModule(model.predictor, model.quantizer, seed=FINAL.seed)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    (logged,) = L.Trainer(**quiet).validate(module, loader, verbose=False)
    assert held_out_nats(model, FINAL, "cpu") == pytest.approx(logged["val/nats_per_code"], 1e-6)


def test_parameters_are_told_by_group():
    model = tiny_model()
    counts = {n: p.numel() for n, p in model.predictor.named_parameters()}
    blocks = sum(count for name, count in counts.items() if name.startswith("blocks."))
    told = parameters_of(model)
    assert (told.blocks, told.head, told.total) == (blocks, 0, sum(counts.values()))
    assert told.embeddings == told.total - blocks


def test_a_run_of_several_goes_tells_every_commit_machine_and_command_once(tmp_path):
    goes = [
        {"git_sha": sha, "machine": {"cpu": cpu, "cores": 2}, "command": words}
        for sha, cpu, words in (("0a", "Z80", "x"), ("1b", "Z80", "x"), ("1b", "6502", "x y"))
    ]
    goes[2]["machine"]["gpu"] = "1 x H1"
    (tmp_path / "record.json").write_text(json.dumps(goes))
    told = {"git_sha": "0a; 1b", "machine": "Z80, 1 threads; 1 x H1, 1 threads"}
    assert origin_of(tmp_path, 1) == told | {"command": "x; x y"}
    (tmp_path / "record.json").write_text(json.dumps(goes[:1]))
    assert origin_of(tmp_path, None)["machine"] == "Z80, 2 threads"


def test_the_curve_is_the_probes_by_tokens_and_flops(tmp_path):
    stage = Stage(steps=10, batch=4, scene=SCENE)
    data, sizes = SyntheticDataModule([stage]), tiny_model().predictor.cfg
    figures = {"epe": 3.0, "zero_epe": 4.0, "hit": 0.5, "median": 2.0}
    known = {f"flow/easy/{key}": value for key, value in figures.items()}
    (tmp_path / "probe.json").write_text(json.dumps([{"step": 0} | known, {"step": 5}]))
    first, second = curve_of(tmp_path, data, sizes, None)
    assert (first.step, first.tokens, first.flops) == (0, 0, 0.0)
    assert (first.sets["easy"].epe_px, first.sets["easy"].hit) == (3.0, 0.5)
    assert second.tokens == 5 * 4 * 16 * 3 and second.flops == spent_at(5, data, sizes).flops
    assert second.sets == {}  # a probe that failed
    assert curve_of(tmp_path / "none", data, sizes, None) == ()
