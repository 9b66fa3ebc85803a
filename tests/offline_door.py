"""eval.py as a newcomer starts it: in a process of its own, in a folder of their own, offline."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

# Python imports it at its start; any connection then ends the door with this error.
NO_NETWORK = """
import socket

def refuse(*_, **__):
    raise RuntimeError("the door reached for the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def first_look(
    repository: Path, cwd: Path, *words: str
) -> tuple[subprocess.CompletedProcess, float]:
    """``python eval.py WORDS`` of a checkout; the process when it has ended, and its seconds."""
    offline = cwd / "offline"
    offline.mkdir()
    (offline / "sitecustomize.py").write_text(NO_NETWORK)
    # Nothing but the checkout itself: no package that is installed elsewhere by the same names.
    env = os.environ | {"PYTHONPATH": f"{offline}{os.pathsep}{repository}"}
    env = {key: value for key, value in env.items() if not key.startswith("LRAS_")}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(repository / "eval.py"), *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    return done, time.monotonic() - start


def written(done: subprocess.CompletedProcess, cwd: Path) -> list[Path]:
    """What it says that it wrote, from the folder it was started in."""
    return [cwd / path for path in re.findall(r"^written: (.+)$", done.stdout, re.M)]
