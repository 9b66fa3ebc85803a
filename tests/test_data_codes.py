"""A predictor on token shards sees the very codes it would have made of the frames."""

import json
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from fake_datasets import clip_frame, write_clip_shards
from omegaconf import OmegaConf

from data.datamodule import ClipDataModule
from data.index import ShardWriter, read_index
from data.pairs import PairConfig, pick_pair
from doors.building import _build_quantizer
from lras.predictor_module import PredictorModule
from tests.fake_shards import quiet_trainer
from tests.tiny_model import tiny_model

SIZE, FRAMES, CLIPS = 16, 5, 12


def write_codes_of_clips(folder: Path, quantizer) -> None:
    """The clips of ``write_clip_shards`` under the same keys, tokenized."""
    writer = ShardWriter(
        folder, 4, SIZE, FRAMES, kind="tokens", fingerprint=quantizer.fingerprint()
    )
    for clip in range(CLIPS):
        frames = torch.stack([clip_frame(clip, t, SIZE) for t in range(FRAMES)])
        file = BytesIO()
        np.save(file, quantizer.encode(frames.float() / 255).numpy().astype(np.uint16))
        about = {"source": "fake", "fps": 30.0, "num_frames": FRAMES}
        sample = {"json": json.dumps(about).encode(), "codes.npy": file.getvalue()}
        writer.write({"__key__": f"clip{clip:03d}"} | sample)
    writer.finish()


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder, quantizer = tmp_path_factory.mktemp("roots"), tiny_model().quantizer
    for split in ("train", "val"):
        write_clip_shards(folder / "clips" / split, CLIPS, clip_frames=FRAMES, size=SIZE)
        write_codes_of_clips(folder / "tokens" / split, quantizer)
    return folder


def trained(root, folder) -> tuple[dict, dict]:
    model = tiny_model()
    module = PredictorModule(model.predictor, model.quantizer, warmup_steps=2)
    trainer = quiet_trainer(folder, max_steps=3)
    trainer.fit(module, ClipDataModule(root, batch_size=4))
    (values,) = trainer.validate(module, ClipDataModule(root, batch_size=5), verbose=False)
    return module.predictor.state_dict(), values


def test_training_on_codes_is_training_on_the_frames_they_were_made_of(roots, tmp_path):
    (weights, values), (same, known) = (
        trained(roots / name, tmp_path) for name in ("tokens", "clips")
    )
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    for name in ("val/nats_per_code", "val/nats_copy", "val/nats_unigram"):
        assert values[name] == known[name]
    assert values["val/codes_used"] == known["val/codes_used"] > 0
    assert known.keys() - values.keys() == {"val/quantizer_psnr_db", "val/quantizer_ssim"}


def test_a_predictor_refuses_codes_of_another_quantizer(roots, tmp_path):
    other = tiny_model(seed=1)
    module = PredictorModule(other.predictor, other.quantizer)
    with pytest.raises(ValueError, match=r"come from the encoder .* and the model's is"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, ClipDataModule(roots / "tokens", 4))
    with pytest.raises(ValueError, match=r"come from the encoder .* and the model's is"):
        quiet_trainer(tmp_path).validate(module, ClipDataModule(roots / "tokens", 4))


def test_codes_need_the_run_whose_encoder_made_them(roots, tmp_path):
    cfg = {"quantizer": None, "data": {"root": str(roots / "tokens")}}
    cfg["model"] = {"quantizer": {"_target_": "builtins.dict"}}
    data = ClipDataModule(roots / "tokens", batch_size=4)
    with pytest.raises(ValueError, match=r"tokens holds codes, .* name the run .*: quantizer=RUN"):
        _build_quantizer(OmegaConf.create(cfg), data, tmp_path, None)


def test_the_gap_in_seconds_is_that_of_the_two_frames_where_rates_vary(roots):
    about = {"num_frames": 3, "fps": 30.0, "times_s": [0.0, 0.1, 0.5]}
    index = read_index(roots / "tokens" / "train")
    codes = BytesIO()
    np.save(codes, np.zeros((3, 2, 2), np.uint16))
    sample = {"json": json.dumps(about).encode(), "codes.npy": codes.getvalue()}
    pairs = PairConfig(min_gap=1, max_gap=2)
    found = {
        (p["gap"], round(p["gap_s"], 6))
        for p in (pick_pair(sample, index, pairs, Random(i), True) for i in range(60))
    }
    assert found == {(1, 0.1), (1, 0.4), (2, 0.5)}
