"""Every engine comes to the same bytes; optional ones say what they lack."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from fake_datasets import noise_video, write_video
from test_data_ingest import config, digests_of

from data.engines import EngineConfig
from data.ingest import ingest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write_video(folder / f"{number}.mkv", noise_video(12, 16, 16, seed=number))
    (folder / "3 bad.mp4").write_bytes(b"noise")
    return folder


@pytest.fixture(scope="module")
def expected(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out"
    ingest(config(videos, out, task_videos=1))
    return digests_of(out)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def test_a_pool_of_processes(videos, expected, tmp_path):
    ingest(config(videos, tmp_path / "out", task_videos=1, workers=3))
    assert digests_of(tmp_path / "out") == expected


def needs(name):
    absent = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(absent, reason=f"{name} is an optional extra and not installed")


@needs("submitit")
def test_slurm_jobs_of_this_machine(videos, expected, tmp_path):
    cfg = config(
        videos, tmp_path / "out", task_videos=1, workers=2, engine="slurm", slurm_cluster="local"
    )
    assert "3 bad.mp4" in ingest(cfg).skipped
    assert digests_of(tmp_path / "out") == expected


@needs("submitit")
def test_what_goes_wrong_in_a_slurm_job_is_said(videos, tmp_path):
    cfg = config(
        videos,
        tmp_path / "out",
        task_videos=1,
        workers=1,
        engine="slurm",
        slurm_cluster="local",
        strict=True,
    )
    with pytest.raises(ValueError, match=r"1 of 1 SLURM jobs failed .*3 bad\.mp4 cannot be read"):
        ingest(cfg)
    assert list((tmp_path / "out-slurm-logs").glob("*_log.err"))


@needs("ray")
def test_a_ray_cluster_of_this_machine(videos, expected, tmp_path):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        ingest(config(videos, tmp_path / "out", task_videos=1, workers=2, engine="ray"))
        assert digests_of(tmp_path / "out") == expected
        strict = config(
            videos, tmp_path / "strict", task_videos=1, workers=1, engine="ray", strict=True
        )
        with pytest.raises(ValueError, match=r"3 bad\.mp4 cannot be read"):
            ingest(strict)
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("engine", "words"), [("ray", "Ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_costs_one_sentence(
    videos, tmp_path, monkeypatch, engine, words
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"engine={engine} needs {words}.*pip install"):
        ingest(config(videos, tmp_path / "out", engine=engine))
    assert not (tmp_path / "out").exists()


def test_workers_are_never_more_than_tasks():
    assert EngineConfig(workers=8).num_workers(3) == 3
    assert EngineConfig(workers=0).num_workers(3) == 0
    assert 1 <= EngineConfig().num_workers(100) <= 100


def test_json_of_an_ingest_names_no_engine(videos, tmp_path):
    ingest(config(videos, tmp_path / "out", workers=2))
    settings = json.loads((tmp_path / "out" / "ingest.json").read_text())["plan"]["settings"]
    assert not {"engine", "workers", "videos", "out"} & settings.keys()
    assert sys.executable not in (tmp_path / "out" / "ingest.json").read_text()
