"""A claim on a run: one holder at a time, alive for as long as it works, gone when it ends."""

import os
import time

import pytest

from studies.claimed import claimed


def test_a_run_that_is_claimed_is_refused_to_others_until_its_holder_is_done(tmp_path):
    path = tmp_path / "claims" / "run"
    with claimed(path) as first, claimed(path) as second:
        assert first and not second
    with claimed(path) as third:
        assert third
    assert not list(path.parent.iterdir())


def test_a_holder_that_fails_gives_its_claim_back(tmp_path):
    with pytest.raises(RuntimeError, match="broken"), claimed(tmp_path / "run"):
        raise RuntimeError("broken")
    with claimed(tmp_path / "run") as ours:
        assert ours


def test_a_holder_that_works_for_long_says_that_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.claimed.STALE_S", 0.5)
    path = tmp_path / "run"
    with claimed(path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert time.time() - path.stat().st_mtime < 60
