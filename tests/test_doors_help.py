"""--help of both doors: complete, and its examples are real."""

import re
import string
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from doors.help import door_help

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("door", ["train", "eval"])
def test_help_shows_every_group_with_all_its_choices(door):
    text = door_help(door)
    with initialize_config_dir(str(CONFIGS), version_base=None):
        choices = compose(door, return_hydra_config=True).hydra.runtime.choices
    groups = [
        group for group in choices if not group.startswith("hydra/") and group != "experiment"
    ]
    assert len(groups) > 3
    for group in groups:
        names = {path.stem for path in (CONFIGS / group.partition("@")[0]).glob("*.yaml")}
        line = re.search(rf"^  {group} +((?:.+)(?:\n {{21}}.+)*)", text, re.M)
        assert set(line[1].replace("[", "").replace("]", "").split()) == names
        assert all(f"[{name}]" in line[1] for name in str(choices[group]).strip("[]").split(","))


def test_help_says_of_every_experiment_what_its_file_says_first():
    text = door_help("train")
    for path in (CONFIGS / "experiment").glob("*.yaml"):
        about = path.read_text().splitlines()[1].removeprefix("# ")
        assert re.search(rf"^  {path.stem} +{re.escape(about)}$", text, re.M)


@pytest.mark.parametrize("door", ["train", "eval"])
def test_the_examples_of_help_are_commands_that_compose(door):
    commands = re.findall(rf"^  python {door}\.py ((?:\S+=\S+ ?)+)", door_help(door), re.M)
    assert len(commands) >= 3
    with initialize_config_dir(str(CONFIGS), version_base=None):
        for command in commands:
            compose(door, command.split())


def test_hydra_fills_the_template_and_finds_nothing_to_replace():
    assert string.Template(door_help("train")).substitute() == door_help("train").replace("$$", "$")
