"""``python scaling.py``: what it writes, and one sentence for each mistake."""

import logging
import os
import sys
from pathlib import Path

import pytest

import scaling as scaling_door
from doors.help import door_help
from studies.card import CARD
from tests.study_cards import card, write, write_study

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.fixture
def knock(tmp_path, monkeypatch):
    """Run scaling.py in this process."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])  # hydra sets its own
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> None:
        argv = ["scaling", "--config-path", str(CONFIGS), "num_draws=20", *words]
        monkeypatch.setattr(sys, "argv", argv)
        scaling_door.main()

    return run


@pytest.fixture
def said(knock, capsys):
    """The sentence that a mistake ends with."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            knock(*words)
        assert isinstance(ended.value.code, str)  # printed on stderr, exit status 1
        assert len(ended.value.code.splitlines()) == 1
        return ended.value.code

    return run


def test_the_door_writes_beside_the_runs_and_says_what_it_found(knock, capsys, tmp_path):
    def law(blocks, tokens, generator):
        return 1 + 30 * blocks**-0.3, 0.4 + 1500 * blocks**-0.5

    write_study(tmp_path / "runs", law, budgets=(1e6,), seeds=1)
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / CARD).write_text("{")
    knock("runs=runs")
    told = capsys.readouterr().out
    assert "6 runs of 6 sizes" in told and "written: runs/report/report.html" in told
    assert "left out: " in told and "torn" in told
    assert (tmp_path / "runs" / "report" / "runs.csv").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # hydra leaves nothing
    knock("runs=runs", "out=page", "set=easy")  # its own report is no run
    assert (tmp_path / "page" / "report.html").is_file()


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "runs is not given; name the folder of a study"),
        (["runs=nowhere"], "runs=nowhere is no folder"),
        (["runs=empty"], "runs=empty holds no finished run"),
        (["runs=study", "set=hard"], "set=hard is in none of the 1 runs; choose one of easy."),
        (["runs=torn"], "holds no finished run (0 unfinished, 1 damaged)"),
        (["runs=study", "out=study/d/study.json"], "out=study/d/study.json is a file"),
        (["runs=study", "out=study/d/study.json/in"], "is a file or lies in one; name a folder"),
        (["runs=study", "emergence_share=2"], "emergence_share=2 is no share of 1"),
        (["runs=study", "emergence_share=half"], "emergence_share=half is no share of 1"),
        (["runs=7"], "runs=7 is no text; name a folder, one called 7 as runs=./7."),
        (["runs=study", "out=7"], "out=7 is no text; name a folder, one called 7 as out=./7."),
        (["runs=study", "num_draws=0"], "num_draws=0 is no whole number from 20 on"),
        (["runs=study", "num_draws=2.5"], "num_draws=2.5 is no whole number from 20 on"),
        (["runs=study", "num_draws=-1"], "num_draws=-1 is no whole number from 20 on"),
        (["runs=study", "seed=-1"], "seed=-1 is no whole number from 0 on; set seed=0."),
        (["runs=unlike"], "unlike: d32-1e+06tokens-seed0 and other are both called d32 and have"),
        (["runs=twice"], "twice: one and two are both d32, 1M tokens, seed 0"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, said, tmp_path):
    write(tmp_path / "study", card(), "d")
    write(tmp_path / "twice", card(), "one")
    write(tmp_path / "twice", card(), "two")
    write(tmp_path / "unlike", card())
    write(tmp_path / "unlike", card(seed=1, blocks=70_000), "other")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn" / "r").mkdir(parents=True)
    (tmp_path / "torn" / "r" / CARD).write_text("{")
    assert sentence in said(*words)
    assert not list(tmp_path.rglob("report*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(said, tmp_path):
    write(tmp_path / "study", card(), "d")
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "cannot be written" in said("runs=study", "out=closed")
    assert "cannot be made" in said("runs=study", "out=closed/in")


def test_the_door_has_help():
    text = door_help("scaling")
    assert "python scaling.py runs=runs/scaling" in text and "emergence_share" in text
    assert "GROUPS" not in text
