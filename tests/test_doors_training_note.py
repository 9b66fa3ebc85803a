"""The note of an export: data in words, tokens counted as the network sees them, the last probe."""

import json
import math

import pytest
import torch

from data.datamodule import ClipDataModule
from data.synthetic import SceneConfig
from doors.building import build_data
from doors.estimate import plan_of, total_tokens
from doors.training_note import data_in_words, training_note
from lras.config import PredictorConfig
from lras.sequence import two_frames
from tests.test_doors_dry_run import composed
from tracing.config import TracerConfig
from tracing.probe import FlowProbe
from tracing.probe.sets import synthetic

SIZES = {"image_size": 16, "patch_px": 8, "code_px": 4, "num_codes": 32, "dim": 32, "num_heads": 2}
MODEL = PredictorConfig.modern(**SIZES)


def clips(folder) -> ClipDataModule:
    return ClipDataModule(folder / "kinetics", batch_size=3, min_gap=2, max_gap=5)


def test_a_curriculum_is_told_and_counted_as_far_as_it_was_trained_on():
    data, _ = build_data(composed("experiment=smoke"))
    note = training_note(data, PredictorConfig.modern(image_size=16, num_codes=32), 8, 1, [])
    told = "synthetic scenes: 6 steps of 8 pairs at 12 px, then 2 steps of 8 pairs at 16 px"
    assert note == {"data": told, "tokens": 6 * 8 * (9 + 9 * 2) + 2 * 8 * (16 + 16 * 2)}


@pytest.mark.parametrize("flavor", ["modern", "official"])
def test_tokens_of_clips_are_those_of_the_sequences_of_all_processes(flavor, tmp_path):
    model = getattr(PredictorConfig, flavor)(**SIZES)
    codes, order = torch.zeros(1, 4, 4, dtype=torch.long), torch.arange(4)[None]
    vocab = model.vocab(model.grid)
    seq = two_frames(codes, codes, order, order, vocab, model.frame0_pointers)
    plan = plan_of(clips(tmp_path), 10, model, world=2)
    assert total_tokens(plan, model) == 10 * 2 * 3 * seq.tokens.shape[1]


def test_clips_are_named_without_the_path_to_them(tmp_path):
    told = data_in_words(clips(tmp_path), plan_of(clips(tmp_path), 10, MODEL, world=1))
    assert told == "clips of kinetics, pairs of frames 2 to 5 frames apart"


def test_the_last_probe_gives_errors_by_set_and_their_protocol(tmp_path):
    sets = {
        name: synthetic(SceneConfig(size=16, max_motion_px=4.0), num_pairs=2, seed=seed)
        for name, seed in (("near", 1), ("far", 2), ("failed", 3))
    }
    probe = FlowProbe(sets, tracer=TracerConfig(num_masks=3), seed=5, weights="ema")
    assert "flow_epe_px" not in training_note(clips(tmp_path), MODEL, 10, 1, [probe])
    probe.history = [
        {"step": 0, "flow/near/epe": 9.0, "flow/far/epe": 9.0},
        {"step": 60, "flow/near/epe": 1.23456, "flow/far/epe": math.nan, "flow/near/hit": 0.5},
    ]
    note = training_note(clips(tmp_path), MODEL, 10, 1, [object(), probe])
    assert note["flow_epe_px"] == {"near": 1.2346, "far": "nan"}
    assert "probe at step 60 of the ema weights" in note["protocol"]
    assert f"near: {sets['near'].about}; far: {sets['far'].about}; KL tracer" in note["protocol"]
    assert "num_masks=3" in note["protocol"] and "seed 5" in note["protocol"]
    assert "failed" not in note["protocol"]
    assert json.loads(json.dumps(note, allow_nan=False)) == note
