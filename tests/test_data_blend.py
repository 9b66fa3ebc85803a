"""Scenes and clips in one batch: in fixed numbers, at any step, on any number of processes."""

import json
import subprocess
import sys

import pytest
import torch
from fake_datasets import write_clip_shards
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from data.blend import ScenesAndClips
from data.curriculum import Stage, SyntheticDataModule
from data.synthetic import SceneConfig
from doors.estimate import plan_of
from doors.training_note import data_in_words
from lras.config import PredictorConfig
from tests.test_configs import CONFIGS

ROOT = CONFIGS.parent

STAGES = [
    Stage(steps=2, batch=4, scene=SceneConfig(size=12)),
    Stage(steps=3, batch=8, frame1_share=0.5, scene=SceneConfig(size=16)),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip_shards(folder / "train", num_clips=9, size=20)
    return folder


def blended(clips, numbers=(0, 4), stages=STAGES, **options) -> ScenesAndClips:
    return ScenesAndClips(stages, numbers, str(clips), textures=4, **options)


def batches(data: SyntheticDataModule, rank=0, world=1, parts=1) -> list[dict]:
    data.trainer = type("Trainer", (), {})()
    data.trainer.global_rank, data.trainer.world_size = rank, world
    data.trainer.accumulate_grad_batches = parts
    return list(data.train_dataloader())


def from_clips(batch: dict) -> list[str]:
    return [key for key in batch["key"] if key.startswith("clip")]


def test_each_stage_has_its_number_of_real_pairs_at_its_own_size(clips):
    found = batches(blended(clips))
    shapes = [tuple(batch["frames"].shape) for batch in found]
    assert shapes == 2 * [(4, 2, 3, 12, 12)] + 3 * [(8, 2, 3, 16, 16)]
    assert [len(from_clips(batch)) for batch in found] == [0, 0, 4, 4, 4]
    assert [batch["frame1_share"] for batch in found] == [1.0, 1.0, 0.5, 0.5, 0.5]
    last = found[-1]
    assert last["frames"].dtype == torch.uint8 and len(last["gap"]) == 8
    real = torch.tensor([key.startswith("clip") for key in last["key"]])
    assert (last["gap"][~real] == 1).all()
    # Frames of fake clips hold their number t in the second channel: the gap is theirs.
    seen = last["frames"][real][:, :, 1, 0, 0].int()
    assert torch.equal(seen[:, 1] - seen[:, 0], last["gap"][real].int())


def test_without_clips_the_batches_are_those_of_the_scenes_alone():
    alone = batches(SyntheticDataModule(STAGES, textures=4))
    same = batches(ScenesAndClips(STAGES, [0, 4], textures=4))
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(alone, same, strict=True))


def test_a_run_goes_on_with_the_very_batches_it_would_have_seen(clips):
    whole, data = batches(blended(clips)), blended(clips)
    batches(data)
    data.load_state_dict(data_state(clips, step=3))
    rest = batches(data)
    assert [batch["key"] for batch in rest] == [batch["key"] for batch in whole[3:]]
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(whole[3:], rest, strict=True))


def data_state(clips, step: int) -> dict:
    data = blended(clips)
    batches(data)
    data.trainer.global_step = step
    return data.state_dict()


def test_a_run_does_not_go_on_with_other_clips(clips, tmp_path):
    write_clip_shards(tmp_path / "train", num_clips=8, size=20)
    other = blended(tmp_path)
    with pytest.raises(ValueError, match="name the same clips, or start a new run"):
        other.load_state_dict(data_state(clips, step=3))


@pytest.mark.parametrize("world, parts", [(2, 1), (1, 2)])
def test_processes_and_accumulated_batches_together_are_the_batch_of_one(clips, world, parts):
    (whole,) = [batches(blended(clips, streams=2))[-1]]
    ranks = [batches(blended(clips, streams=2), r, world, parts)[-parts:] for r in range(world)]
    pieces = [batch for own in ranks for batch in own]
    assert torch.equal(torch.cat([batch["frames"] for batch in pieces]), whole["frames"])
    assert [from_clips(batch) for batch in pieces] == [
        from_clips({"key": whole["key"][:4]}), from_clips({"key": whole["key"][4:]}),
    ]  # fmt: skip


def test_a_quantizer_is_fed_real_frames_from_the_first_steps_on(clips):
    mixed = blended(clips, steps_scale=2.0).mixed()
    found = batches(mixed)
    assert len(found) == 10
    assert [len(from_clips(batch)) for batch in found[:4]] == [0, 4, 0, 4]


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"numbers": (4,)}, "there are 2 stages"),
        ({"numbers": (0, 8)}, "do not leave a scene in a batch of 8"),
        ({"numbers": (0, 3), "streams": 2}, "3 pairs do not divide into 2 equal streams"),
        ({"numbers": (0, 4), "max_gap": 6}, "do not fit clips of 6 frames"),
        (
            {"numbers": (0, 4), "stages": [STAGES[0], Stage(steps=1, batch=8)]},
            "does not fit frames of 20 px",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(clips, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        batches(blended(clips, **options))


def test_the_note_of_a_training_tells_of_both(clips):
    data = blended(clips)
    told = data_in_words(data, plan_of(data, 5, PredictorConfig(image_size=16), world=1))
    assert told.startswith("synthetic scenes: 2 steps of 4 pairs at 12 px, then 3 steps")
    assert f"0, 4 pairs of each batch are of clips of {clips.name}, 1 to 4 frames apart" in told


@pytest.mark.slow
def test_a_tiny_training_on_both_goes_on_and_says_what_it_was_fed(tmp_path):
    write_clip_shards(tmp_path / "clips" / "train", num_clips=9, size=20)
    words = ["train.py", "experiment=smoke", "data._target_=data.blend.ScenesAndClips"]
    words += [f"+data.clips_root={tmp_path / 'clips'}", "+data.clips=[0,4]"]
    words += [f"hydra.run.dir={tmp_path / 'run'}"]
    for more in (["trainer.max_steps=8"], [f"resume={tmp_path / 'run'}"]):
        done = subprocess.run([sys.executable, *words, *more], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    note = json.loads((tmp_path / "run" / "export" / "config.json").read_text())["note"]
    assert note["step"] == 12 and "pairs of each batch are of clips of clips" in note["data"]


def test_lras_micro_names_the_mixture():
    with initialize_config_dir(str(CONFIGS), version_base=None):
        cfg = compose("train", ["experiment=lras_micro", "data.clips_root=CLIPS"])
    data = instantiate(cfg.data, _convert_="object")
    assert isinstance(data, ScenesAndClips) and data.clips == [0, 0, 24]
    assert data.total_steps == 11_000
