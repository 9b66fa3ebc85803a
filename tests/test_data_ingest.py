"""Videos in, shards out: exact frames, no leak into validation, nothing half-written."""

import hashlib
import io
import json

import cv2
import numpy as np
import pytest
import torch
import webdataset as wds
from einops import rearrange
from fake_datasets import noise_video, write_sound, write_video
from rich.console import Console

from data.index import ShardWriter, read_index
from data.ingest import IngestConfig, ingest, main, parse
from data.verify import verify

CLIPS = 5  # of 4 frames, from each video of 22 frames


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, name in enumerate(["a.one", "b two"]):
        write_video(folder / f"{name}.mkv", noise_video(22, 16, 16, seed=number))
    (folder / "notes.txt").write_text("not a video, and no reason to complain")
    return folder


def config(videos, out, **changed):
    given = {"size": 16, "clip_frames": 4, "format": "png", "workers": 0} | changed
    return IngestConfig(videos=str(videos), out=str(out), **given)


def samples_of(folder):
    index = read_index(folder)
    urls = [{"url": str(folder / shard.name)} for shard in index.shards]
    return list(wds.tarfile_samples(urls))


def frames_of(sample, suffix="png"):
    names = sorted(name for name in sample if name.endswith(suffix))
    images = [np.frombuffer(sample[name], np.uint8) for name in names]
    pixels = [cv2.imdecode(image, cv2.IMREAD_COLOR_RGB) for image in images]
    return rearrange(torch.from_numpy(np.stack(pixels)), "t h w c -> t c h w")


def digests_of(out):
    """By path within the folder, the sha256 of every file, hidden ones too."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_clip_holds_exactly_the_frames_it_names(videos, tmp_path):
    result = ingest(config(videos, tmp_path / "out", shard_clips=3))
    assert result.clips == {"train": 8, "val": 2} and not result.skipped
    source = {f"{n}.mkv": noise_video(22, 16, 16, seed=i) for i, n in enumerate(["a.one", "b two"])}
    seen = []
    for part in "train", "val":
        for sample in samples_of(tmp_path / "out" / part):
            about = json.loads(sample["json"])
            start = about["start_frame"]
            assert torch.equal(frames_of(sample), source[about["source"]][start : start + 4])
            assert (about["fps"], about["num_frames"]) == (30.0, 4)
            assert about["start_s"] == pytest.approx(start / 30, abs=1e-3)
            assert about["times_s"] == pytest.approx([0, 1 / 30, 2 / 30, 3 / 30], abs=2e-3)
            content = (videos / about["source"]).read_bytes()
            assert about["sha256"] == hashlib.sha256(content).hexdigest()
            seen.append((about["source"], start))
    assert sorted(seen) == sorted((name, 4 * clip) for name in source for clip in range(CLIPS))


def test_tail_split_takes_the_last_clips_of_every_video(videos, tmp_path):
    ingest(config(videos, tmp_path / "out", val_fraction=0.4))
    starts = [json.loads(s["json"])["start_frame"] for s in samples_of(tmp_path / "out" / "val")]
    assert starts == [12, 16, 12, 16]


def test_source_split_shares_no_video_and_follows_the_seed(videos, tmp_path):
    chosen = set()
    for seed in range(6):
        out = tmp_path / f"out{seed}"
        ingest(config(videos, out, split="source", seed=seed))
        train, val = (
            {json.loads(s["json"])["source"] for s in samples_of(out / part)}
            for part in ("train", "val")
        )
        assert len(train) == len(val) == 1 and not train & val
        chosen |= val
    assert chosen == {"a.one.mkv", "b two.mkv"}


def test_without_validation_there_is_no_val_folder(videos, tmp_path):
    ingest(config(videos, tmp_path / "out", val_fraction=0.0))
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["ingest.json", "skipped.json", "train"]


def test_same_videos_and_settings_make_the_same_bytes(videos, tmp_path):
    digests = []
    for out in tmp_path / "one", tmp_path / "two":
        ingest(config(videos, out))
        digests.append(digests_of(out))
    assert digests[0] == digests[1] and len(digests[0]) == 10


def test_jpeg_stays_close_to_the_picture(tmp_path):
    (tmp_path / "videos").mkdir()
    ramp = torch.arange(64).mul(4).byte().expand(4, 3, 64, 64)
    write_video(tmp_path / "videos" / "ramp.mkv", ramp)
    cfg = IngestConfig(
        videos=str(tmp_path / "videos"), out=str(tmp_path / "out"), clip_frames=4, workers=0
    )
    ingest(cfg)
    (sample,) = samples_of(tmp_path / "out" / "train")
    assert (frames_of(sample, "jpg").int() - ramp).abs().max() <= 4


def test_bad_videos_are_named_with_their_reason_and_skipped(videos, tmp_path):
    (videos / "noise.mp4").write_bytes(b"noise" * 100)
    write_sound(videos / "sound.mp4")
    write_video(videos / "tiny.mkv", noise_video(3, 16, 16))
    said = io.StringIO()
    result = ingest(config(videos, tmp_path / "out"), Console(file=said, width=1000))
    reasons = [
        "cannot be read as a video",
        "no video stream",
        "3 frames, fewer than clip_frames=4",
    ]
    assert result.clips == {"train": 8, "val": 2} and len(result.skipped) == 3
    for name, reason in zip(["noise.mp4", "sound.mp4", "tiny.mkv"], reasons, strict=True):
        assert reason in result.skipped[name] and reason in said.getvalue()


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return status, " ".join(said.err.split())


def test_strict_ends_at_the_first_bad_video_and_writes_no_half_of_anything(
    videos, tmp_path, capsys
):
    (videos / "bad.mp4").write_bytes(b"noise")
    out = tmp_path / "out"
    common = (f"videos={videos}", f"out={out}", "size=16", "clip_frames=4", "workers=0")
    status, said = run(capsys, *common, "strict=true")
    assert status == 1 and "bad.mp4 cannot be read" in said
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
    status, said = run(capsys, *common)
    assert (
        status == 0 and "8 training and 2 validation clips" in said and "1 videos skipped" in said
    )


def test_strict_keeps_whole_tasks_for_the_next_time_but_no_index(videos, tmp_path, capsys):
    (videos / "c bad.mp4").write_bytes(b"noise")
    out, other = tmp_path / "out", tmp_path / "other"
    common = (f"videos={videos}", "size=16", "clip_frames=4", "workers=0", "task_videos=1")
    status, said = run(capsys, *common, f"out={out}", "strict=true")
    assert status == 1 and "c bad.mp4 cannot be read" in said
    found = {path.name for path in out.rglob("*") if path.is_file()}
    assert {"000000.json", "000001.json", "clips-000001-000000.tar"} <= found
    assert not any("index" in name or "partial" in name or "claim" in name for name in found)
    for folder in out, other:
        assert run(capsys, *common, f"out={folder}")[0] == 0
    assert digests_of(out) == digests_of(other)


def test_a_run_that_makes_no_clip_fails_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"noise")
    arguments = (f"videos={tmp_path / 'videos'}", f"out={tmp_path / 'out'}", "workers=0")
    status, said = run(capsys, *arguments)
    assert status == 1 and "no clip was written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_an_interrupted_run_leaves_nothing_half_written(videos, tmp_path, monkeypatch):
    finish = ShardWriter.finish

    def interrupt(self, index=True):
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest(config(videos, tmp_path / "out", shard_clips=3))
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
    monkeypatch.setattr(ShardWriter, "finish", finish)
    assert ingest(config(videos, tmp_path / "out")).clips == {"train": 8, "val": 2}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vidoes=a", "out=b"], "no setting is called vidoes; there are: videos out"),
        (["out=b"], "videos not given; type: python -m data.ingest"),
        (["videos=a", "out=b", "size=big"], "size: Value 'big'"),
        (["videos=a", "out=b", "clip_frames=1"], "clip_frames=1"),
        (["videos=a", "out=b", "format=gif"], "format is jpg or png"),
        (["videos=a", "out=b", "val_fraction=1.5"], "val_fraction=1.5"),
        (["videos=a", "out=b", "fps=-1"], "fps=-1"),
        (["videos=a", "out=b", "stride=0"], "stride=0"),
        (["videos=a", "out=b", "scenes=colors"], "scenes is content or null"),
        (["videos=a", "out=b", "min_motion=300"], "min_motion=300"),
        (["videos=a", "out=b", "engine=spark"], "engine is one of local ray slurm"),
        (["videos=a", "out=b", "workers=-1"], "workers=-1"),
        (["a", "out=b"], "got 'a', expected key=value"),
        (["videos=/no/such/folder", "out=b"], "videos=/no/such/folder is not a folder"),
    ],
)
def test_mistakes_on_the_command_line_cost_one_sentence(arguments, sentence, capsys):
    status, said = run(capsys, *arguments)
    assert status == 1 and sentence in said


def test_an_empty_folder_and_a_folder_in_the_way_are_refused(videos, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    status, said = run(capsys, f"videos={empty}", f"out={tmp_path / 'out'}")
    assert status == 1 and "holds no video" in said
    before = digests_of(videos)
    status, said = run(capsys, f"videos={videos}", f"out={videos}")
    assert status == 1 and "exists and is not empty" in said
    assert digests_of(videos) == before


def test_null_and_numbers_are_understood_on_the_command_line():
    assert parse(["videos=a", "out=b", "fps=null"]).fps is None
    assert parse(["videos=a", "out=b", "fps=12"]).fps == 12.0


@pytest.mark.shared
@pytest.mark.slow
def test_all_sixteen_shared_clips_are_ingested(shared_root, tmp_path):
    folder = shared_root / "data" / "videos"
    result = ingest(IngestConfig(videos=str(folder), out=str(tmp_path / "out"), workers=2))
    assert not result.skipped and result.clips == {"train": 265, "val": 33}
    assert read_index(tmp_path / "out" / "train").num_samples == 265
    report = verify(tmp_path / "out")
    assert report.samples == 298 and not report.problems


def test_options_of_a_cluster_are_understood_on_the_command_line():
    given = ["videos=a", "out=b", "engine=slurm", "slurm_options.partition=gpu", "workers=3"]
    cfg = parse(given)
    assert cfg.slurm_options == {"partition": "gpu"} and (cfg.engine, cfg.workers) == ("slurm", 3)


def test_an_interrupt_costs_one_sentence(videos, tmp_path, monkeypatch, capsys):
    def interrupt(self, index=True):
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "finish", interrupt)
    status, said = run(capsys, f"videos={videos}", f"out={tmp_path / 'out'}", "workers=0")
    assert status == 130 and "the same command goes on" in said
