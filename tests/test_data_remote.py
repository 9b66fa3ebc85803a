"""Shards behind URLs, through a cache that stays within its bound and may be shared."""

import hashlib
import multiprocessing
import os
import pickle
import threading
import time
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fake_datasets import write_clip_shards

from data.cache import FileCache
from data.datamodule import ClipDataModule
from data.index import read_index
from data.remote import CacheConfig, open_folder
from tests.fake_shards import drawn, write_token_shards


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    write_clip_shards(folder / "train", num_clips=40, clip_frames=4)
    write_clip_shards(folder / "val", num_clips=5)
    return folder


@pytest.fixture(params=["file", "memory"])
def url(request, local):
    if request.param == "file":
        return f"file://{local}"
    files = fsspec.filesystem("memory")
    if not files.exists("/clips"):
        files.put(str(local), "/clips", recursive=True)
    return "memory://clips"


def batches(root, steps=4, workers=0, **options):
    data = ClipDataModule(root, 8, workers, max_gap=3, **options)
    return [drawn(batch) for batch in islice(data.train_dataloader(), steps)]


@pytest.mark.parametrize("byte_ranges", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_behind_a_url_give_the_same_batches(local, url, tmp_path, workers, byte_ranges):
    options = {"cache_dir": str(tmp_path), "byte_ranges": byte_ranges}
    assert batches(url, workers=workers, **options) == batches(local)
    kept = list((tmp_path / "shards").glob("*.tar"))
    assert bool(kept) != byte_ranges
    assert ClipDataModule(url, **options).root.name == ("clips" if "memory" in url else local.name)


def test_a_spawned_worker_opens_the_url_for_itself(local, tmp_path):
    folder = open_folder(f"file://{local}", "train", CacheConfig(folder=str(tmp_path)))
    folder.read(3)
    assert pickle.loads(pickle.dumps(folder)).read(3) == folder.read(3)


def test_the_cache_stays_within_its_bound_and_drops_what_was_used_least(local, tmp_path):
    index = read_index(local / "train")
    size = max(shard.bytes for shard in index.shards)
    config = CacheConfig(folder=str(tmp_path), gigabytes=3.5 * size / 1e9)
    folder, shards = open_folder(f"file://{local}", "train", config), tmp_path / "shards"

    def fetched() -> set[int]:
        names = {shard.sha256[:32]: n for n, shard in enumerate(index.shards)}
        return {names[path.stem] for path in shards.glob("*.tar")}

    for shard in (0, 1, 2, 0, 3):
        folder._open.clear()  # as another process would
        folder.read(shard * 4)
        time.sleep(0.02)  # times of files are no finer on some disks
        assert sum(path.stat().st_size for path in shards.glob("*.tar")) <= 3.5 * size
    assert fetched() == {0, 2, 3}


def test_a_shard_larger_than_the_cache_is_refused(local, tmp_path):
    config = CacheConfig(folder=str(tmp_path), gigabytes=1e-6)
    with pytest.raises(ValueError, match=r"cache at .* may hold 1000; raise data\.cache_gb"):
        open_folder(f"file://{local}", "train", config).read(0)
    with pytest.raises(ValueError, match=r"cache_gb=0"):
        CacheConfig(gigabytes=0)


def test_a_shard_that_arrives_changed_is_refused_and_not_kept(tmp_path):
    folder = write_token_shards(tmp_path / "far" / "train", num_clips=4)
    far = open_folder(
        f"file://{tmp_path / 'far'}", "train", CacheConfig(folder=str(tmp_path / "c"))
    )
    shard = folder / "clips-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"arrived with .* where its index says"):
        far._file(0)
    assert not [path for path in (tmp_path / "c" / "shards").iterdir() if path.is_file()]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no index\.json at memory://nowhere/train"):
        open_folder("memory://nowhere", "train", CacheConfig(folder=str(tmp_path)))


def test_an_index_that_changes_is_fetched_again(tmp_path):
    url, config = f"file://{tmp_path / 'far'}", CacheConfig(folder=str(tmp_path / "cache"))
    for clips in (4, 8):
        write_token_shards(tmp_path / "far" / "train", num_clips=clips)
        assert open_folder(url, "train", config).index.num_samples == clips


# --- several processes -------------------------------------------------------------------------


def fetch_at_random(folder, seed, copies):
    """Fetch 30 of 8 files of 1,000 bytes through a cache of 3,500; each must be whole."""
    rng = np.random.default_rng(seed)
    cache = FileCache(folder, 3500)

    def copy(path):
        content = bytes([int(path.name.split("-")[1].split(".")[0])]) * 1000
        with path.open("wb") as file:
            for start in range(0, 1000, 100):
                file.write(content[start : start + 100])
                file.flush()
                time.sleep(0.0005)
        copies.value += 1

    for number in rng.integers(0, 8, 30):
        digest = hashlib.sha256(bytes([number]) * 1000).hexdigest()
        while True:
            path = cache.fetch(f"{number}.tar", 1000, digest, copy, "a test")
            try:
                assert path.read_bytes() == bytes([number]) * 1000
                break
            except FileNotFoundError:
                continue
        with cache._locked("lock"):  # nothing comes or goes
            assert sum(each.stat().st_size for each in folder.glob("*.tar")) <= 3500


def test_processes_share_a_cache_without_reading_halves_or_passing_its_bound(tmp_path):
    context = multiprocessing.get_context("fork")
    copies = context.Value("i", 0)
    arguments = [(tmp_path, seed, copies) for seed in range(4)]
    processes = [context.Process(target=fetch_at_random, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert not list(tmp_path.glob(".*"))


def test_a_copy_takes_its_name_when_nobody_counts(tmp_path):
    cache, copied, go = FileCache(tmp_path, 3500), threading.Event(), threading.Event()

    def copy(path):
        path.write_bytes(b"x" * 1000)
        copied.set()
        go.wait(60)

    digest = hashlib.sha256(b"x" * 1000).hexdigest()
    fetching = threading.Thread(target=cache.fetch, args=("x.tar", 1000, digest, copy, "it"))
    fetching.start()
    assert copied.wait(60)
    with cache._locked("lock"):
        go.set()
        fetching.join(0.3)
        assert not (tmp_path / "x.tar").exists()
    fetching.join(60)
    assert (tmp_path / "x.tar").is_file()


def test_a_copy_that_was_given_up_does_not_take_room_for_ever(tmp_path):
    left = tmp_path / ".3000-old.tar.partial-elsewhere-1"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    digest = hashlib.sha256(b"x" * 1000).hexdigest()
    cache = FileCache(tmp_path, 3500)
    path = cache.fetch("x.tar", 1000, digest, lambda p: p.write_bytes(b"x" * 1000) and None, "it")
    assert path.is_file() and not left.exists()


def test_room_is_made_while_others_rename_and_remove(tmp_path, monkeypatch):
    cache = FileCache(tmp_path, max_bytes=10)
    ghost = tmp_path / "gone-again"
    real = Path.is_file
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([ghost]))
    monkeypatch.setattr(Path, "is_file", lambda path: path == ghost or real(path))
    assert cache._make_room(10) and not cache._make_room(11)
