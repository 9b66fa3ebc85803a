"""docs/benchmarks.md names what is there, and everything that is there."""

import re
from pathlib import Path

import pytest

from data.readers.track_sets import RECORDS
from tests.fake_flow import DATASETS
from tracing.baselines.registry import BASELINES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "benchmarks.md").read_text()


def choices(group):
    return {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}


@pytest.mark.parametrize("group", ["task", "tracer"])
def test_every_choice_that_is_named_exists(group):
    named = {
        name for words in re.findall(rf"\b{group}=([a-z_0-9,]+)", TEXT) for name in words.split(",")
    }
    assert len(named) > 1 and named <= choices(group)


@pytest.mark.parametrize("name", [*RECORDS, *DATASETS, *(each.name for each in BASELINES)])
def test_every_data_set_and_baseline_is_in_a_table(name):
    assert any(f"`{name}" in line for line in TEXT.splitlines() if line.startswith("|"))


def test_what_is_said_of_licences_is_what_the_list_says():
    said = "\n".join(line for line in TEXT.splitlines() if line.startswith("|"))
    for licence in ("MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-NC 4.0", "CC BY-NC-SA"):
        assert licence in said
        assert any(licence in each.licence for each in BASELINES)


def test_every_file_that_is_named_exists():
    named = re.findall(r"\b((?:tracing|benchmarks|data|docs)/[\w/]+\.(?:py|md))\b", TEXT)
    assert named and all((ROOT / name).is_file() for name in named)
