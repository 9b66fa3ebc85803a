"""Shape checking of our packages while tests run, and the shared data."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Must stand before the first import of ours: modules are instrumented as they are imported.
install_import_hook(["lras", "tracing", "data", "studies"], "beartype.beartype")

ROOT = Path(__file__).resolve().parents[1]


def find_shared() -> Path | None:
    """The folder of clips, ground truth and golden arrays; None where it is absent."""
    folder = Path(os.environ.get("LRAS_SHARED") or ROOT.parent / "shared")
    return folder.resolve() if (folder / "data").is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests on shared data where it is absent. ``.ci/run`` refuses to start without it."""
    if find_shared() is not None:
        return
    where = os.environ.get("LRAS_SHARED") or "../shared"
    absent = pytest.mark.skip(reason=f"no shared data at {where}; set LRAS_SHARED to its folder")
    for item in items:
        if item.get_closest_marker("shared") or "shared_root" in getattr(item, "fixturenames", ()):
            item.add_marker(absent)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Every test leaves the environment variables as it found them.

    Lightning's launcher sets LOCAL_RANK in its own process: a later test's ``train.py`` would take
    itself for one of several processes that somebody else starts, and wait for the others.
    """
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared_root() -> Path:
    """Root of the shared folder; tests that ask for it carry ``@pytest.mark.shared``."""
    folder = find_shared()
    assert folder is not None, "a test that needs shared data was not skipped at collection"
    return folder
