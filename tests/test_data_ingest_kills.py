"""Killed, restarted, or done twice at once: the same bytes, and nothing left over."""

import time

import pytest
from fake_datasets import noise_video, write_video
from test_data_ingest import digests_of

from benchmarks.ingest_kills import finish, run_with_kills, start
from data.ingest import IngestConfig, ingest


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(10):
        write_video(folder / f"{number}.mp4", noise_video(60, 96, 128, seed=number))
    (folder / "5 bad.mp4").write_bytes(b"noise")
    return folder


def command(videos, out):
    words = ("task_videos=1", "shard_clips=2", "clip_frames=8", "workers=2", "size=64")
    return ["-m", "data.ingest", f"videos={videos}", f"out={out}", *words]


@pytest.fixture(scope="module")
def undisturbed(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    cfg = IngestConfig(
        videos=str(videos), out=str(out), task_videos=1, shard_clips=2, clip_frames=8, workers=0
    )
    ingest(cfg)
    return digests_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_five_kills_change_no_byte_and_leave_nothing(videos, undisturbed, tmp_path, seed):
    out = tmp_path / "out"
    hits = run_with_kills(command(videos, out), out, kills=5, seed=seed, within_s=0.3)
    assert hits == 5
    assert digests_of(out) == undisturbed
    assert sorted(path.name for path in out.iterdir()) == [
        "ingest.json",
        "skipped.json",
        "train",
        "val",
    ]


@pytest.mark.slow
def test_two_ingests_on_one_folder_at_once_both_end_well(videos, undisturbed, tmp_path):
    out = tmp_path / "out"
    both = [start(command(videos, out)) for _ in range(2)]
    for process in both:
        finish(process)
    assert digests_of(out) == undisturbed


@pytest.mark.slow
def test_workers_end_when_their_command_is_killed(videos, tmp_path):
    out = tmp_path / "out"
    process = start(command(videos, out))
    while not any((out / ".tasks").glob("0*.now")):
        time.sleep(0.01)
    process.kill()
    process.communicate()  # returns when the last process that holds stderr is gone
    time.sleep(0.5)
    counts = [len(list((out / ".tasks").glob("0*.json"))) for _ in range(2) if not time.sleep(1)]
    assert counts[0] == counts[1] < 11
