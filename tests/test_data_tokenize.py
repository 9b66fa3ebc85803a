"""Clip shards in, codes out: the right ones, in their order, under their encoder's name."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from fake_datasets import noise_video, write_clip_shards, write_video
from fake_encoders import MeanEncoder
from test_data_ingest import digests_of, frames_of, samples_of

from data.index import read_index
from data.ingest import IngestConfig, ingest
from data.tokenize import TokenizeConfig, main, make_job, tokenize
from data.verify import verify
from lras.checkpoint import save
from lras.config import QuantizerConfig
from lras.quantizer import Quantizer

MEAN = {"_target_": "fake_encoders.MeanEncoder"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenize")
    (folder / "videos").mkdir()
    for number in range(3):
        write_video(folder / "videos" / f"{number}.mkv", noise_video(22, 16, 16, seed=number))
    given = {"size": 16, "clip_frames": 4, "format": "png", "workers": 0, "shard_clips": 3}
    cfg = IngestConfig(
        videos=str(folder / "videos"), out=str(folder / "clips"), task_videos=1, **given
    )
    ingest(cfg)
    return folder / "clips"


def config(clips, out, **changed):
    given = {"encoder": MEAN, "workers": 0, "batch_clips": 2} | changed
    return TokenizeConfig(clips=str(clips), out=str(out), **given)


def codes_of(sample):
    return np.load(io.BytesIO(sample["codes.npy"]), allow_pickle=False)


def test_every_clip_becomes_the_codes_of_its_frames(clips, tmp_path):
    result = tokenize(config(clips, tmp_path / "out"))
    assert result["clips"] == {"train": 12, "val": 3}
    for split in "train", "val":
        before, after = samples_of(clips / split), samples_of(tmp_path / "out" / split)
        assert len(before) == len(after)
        for clip, tokens in zip(before, after, strict=True):
            codes = codes_of(tokens)
            expected = MeanEncoder().encode(frames_of(clip).float() / 255).numpy()
            assert codes.dtype == np.uint16 and codes.shape == (4, 4, 4)
            assert np.array_equal(codes, expected)
            about = json.loads(tokens["json"])
            assert about.pop("fingerprint") == "mean-256-4-a"
            assert about == json.loads(clip["json"]) and tokens["__key__"] == clip["__key__"]


def test_the_index_carries_kind_and_fingerprint_and_all_verifies(clips, tmp_path):
    tokenize(config(clips, tmp_path / "out"))
    index = read_index(tmp_path / "out" / "train")
    assert (index.kind, index.fingerprint) == ("tokens", "mean-256-4-a")
    assert (index.size, index.clip_frames, index.num_samples) == (16, 4, 12)
    assert [shard.samples for shard in index.shards] == [3, 1, 3, 1, 3, 1]
    report = verify(tmp_path / "out")
    assert report.samples == 15 and not report.problems


def test_neither_batches_nor_workers_nor_a_restart_change_the_codes(clips, tmp_path, monkeypatch):
    tokenize(config(clips, tmp_path / "one"))
    monkeypatch.setattr(MeanEncoder, "encode", _breaks_at_call(5, MeanEncoder.encode))
    with pytest.raises(RuntimeError, match="out of memory"):
        tokenize(config(clips, tmp_path / "two"))
    monkeypatch.undo()
    tokenize(config(clips, tmp_path / "two"))
    assert digests_of(tmp_path / "one") == digests_of(tmp_path / "two")
    tokenize(config(clips, tmp_path / "three", batch_clips=5))
    tars = [
        {name: digest for name, digest in digests_of(tmp_path / out).items() if ".tar" in name}
        for out in ("one", "three")
    ]
    assert tars[0] == tars[1] and len(tars[0]) == 9


def _breaks_at_call(number, encode):
    calls = []

    def broken(self, frames):
        calls.append(1)
        if len(calls) == number:
            raise RuntimeError("out of memory")
        return encode(self, frames)

    return broken


@pytest.mark.slow
def test_processes_write_the_same_bytes(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    for workers in 0, 3:
        tokenize(config(clips, tmp_path / str(workers), workers=workers))
    assert digests_of(tmp_path / "0") == digests_of(tmp_path / "3")


def test_one_of_our_runs_is_an_encoder_by_its_path(clips, tmp_path):
    torch.manual_seed(0)
    cfg = QuantizerConfig(code_px=4, num_codes=64, hidden=16, bottleneck="lfq")
    quantizer = Quantizer(cfg).eval()
    save(quantizer, tmp_path / "export")
    result = tokenize(config(clips, tmp_path / "out", encoder=str(tmp_path / "export")))
    about = result["plan"]["settings"]
    assert (about["fingerprint"], about["num_codes"]) == (quantizer.fingerprint(), 64)
    clip, tokens = (samples_of(folder / "val")[0] for folder in (clips, tmp_path / "out"))
    expected = quantizer.encode(frames_of(clip).float() / 255)
    assert np.array_equal(codes_of(tokens), expected.numpy())


def test_the_same_folder_refuses_another_encoder(clips, tmp_path):
    tokenize(config(clips, tmp_path / "out"))
    with pytest.raises(ValueError, match=r"begun with fingerprint=mean-256-4-a, not .*-4-b"):
        tokenize(config(clips, tmp_path / "out", encoder=MEAN | {"salt": "b"}))


def test_a_worker_refuses_an_encoder_that_has_changed_meanwhile(clips, tmp_path, monkeypatch):
    cfg = config(clips, tmp_path / "out", encoder=MEAN | {"salt": "c"})
    job = make_job(cfg)
    monkeypatch.setattr(MeanEncoder, "fingerprint", lambda self: "another")
    with pytest.raises(ValueError, match="has fingerprint another, expected mean-256-4-c"):
        job._encoder()


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (MEAN | {"num_codes": 65_537}, "has 65537 codes, but token shards hold uint16"),
        ({"_target_": "fake_encoders.SilentEncoder"}, "made codes 70000 to 70000"),
        ({"_target_": "fake_encoders.FlatEncoder"}, r"expected integers .1, rows, cols"),
        ({"_target_": "fake_encoders.NoEncoder"}, "without encode and fingerprint"),
        ({"_target_": "fake_encoders.Missing"}, "cannot be made"),
        (MEAN | {"colour": 1}, "cannot be made"),
        ("/no/such/run", "encoder=/no/such/run: no checkpoint at /no/such/run"),
    ],
)
def test_encoders_that_do_not_fit_cost_one_sentence(clips, tmp_path, encoder, sentence):
    with pytest.raises(ValueError, match=sentence):
        tokenize(config(clips, tmp_path / "out", encoder=encoder))
    assert not (tmp_path / "out").exists()


def test_65_536_codes_fit(clips, tmp_path):
    tokenize(config(clips, tmp_path / "out", encoder=MEAN | {"num_codes": 65_536}))
    codes = np.stack([codes_of(sample) for sample in samples_of(tmp_path / "out" / "train")])
    assert codes.max() > 32_767


def test_a_clip_shard_that_is_not_as_written_is_refused(tmp_path):
    write_clip_shards(tmp_path / "clips" / "train", num_clips=4)
    shard = tmp_path / "clips" / "train" / "clips-000000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"clips-000000\.tar has sha256 \w+, its index says"):
        tokenize(config(tmp_path / "clips", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_frame_that_does_not_decode_is_named(tmp_path):
    write_clip_shards(tmp_path / "clips" / "train", num_clips=4, corrupt=(2,))
    with pytest.raises(ValueError, match="clip002: frame 0 is no image of 8x8 px"):
        tokenize(config(tmp_path / "clips", tmp_path / "out"))


def test_tokens_are_not_tokenized_again_and_nothing_is_nothing(clips, tmp_path):
    tokenize(config(clips, tmp_path / "out"))
    with pytest.raises(ValueError, match="holds tokens, not clips"):
        tokenize(config(tmp_path / "out", tmp_path / "again"))
    with pytest.raises(ValueError, match=r"holds no train/index\.json"):
        tokenize(config(tmp_path / "none", tmp_path / "again"))


def test_the_command_line_takes_an_encoder_by_name_or_by_path(clips, tmp_path, capsys):
    common = [f"clips={clips}", f"out={tmp_path / 'out'}", "workers=0"]
    encoder = ["encoder._target_=fake_encoders.MeanEncoder", "encoder.num_codes=16"]
    assert main([*common, *encoder]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "12 training and 3 validation clips as codes of encoder mean-16-4-a (4x4 cells)" in said
    assert main([*common]) == 1
    assert "encoder not given; type: python -m data.tokenize" in capsys.readouterr().err
    assert main([*common, *encoder, "device=tpu"]) == 1
    assert "Traceback" not in capsys.readouterr().err
