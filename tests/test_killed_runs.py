"""A run that is killed ten times, at any moment, leaves what an undisturbed one leaves."""

import json
import os
import subprocess
import sys

import pytest

from tests.distributed_runs import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("data", ["scenes", "clips"])
def test_ten_kills_at_seeded_moments_change_no_bit(data):
    command = [sys.executable, "-m", "tests.killed_runs", data]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 10 and found["differing"] == []
    assert found["killed_after_step"] == sorted(found["killed_after_step"])
