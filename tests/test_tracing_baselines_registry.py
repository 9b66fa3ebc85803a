"""The list of baselines: what it says is so, and asking for what is not on it is told."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from tests.test_tracing_baselines_learned import ptlflow  # noqa: F401  a fixture
from tracing.baselines import __main__ as door
from tracing.baselines import baseline
from tracing.baselines.raft import RAFT
from tracing.baselines.registry import BASELINES, NAMES, find
from tracing.benchmarks.line_up import options_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NO_WEIGHTS = ("zero_motion", "best_translation", "dis", "farneback")


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_needs_nothing_is_built_by_name_and_at_hand(name):
    assert baseline(name).name == name
    assert find(name).at_hand() == "yes"


def test_every_baseline_says_where_it_is_from_and_on_what_terms():
    assert len(set(NAMES)) == len(NAMES)
    for each in BASELINES:
        assert each.reference and each.licence
        assert (each.weights == "none") == (each.weights_file is None) or each.package


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_has_a_config_whose_keys_are_its_options(name):
    with initialize_config_dir(str(CONFIGS), version_base=None):
        cfg = compose("eval", [f"tracer={name}"])
    assert cfg.tracer.name == name
    options = options_of(OmegaConf.to_container(cfg.tracer, resolve=True))
    takes = inspect.signature(find(name).build).parameters
    assert set(options) <= set(takes)
    for option, value in options.items():
        default = takes[option].default
        assert value == (list(default) if isinstance(default, tuple) else default)
    instantiate(cfg.tracer.cfg)  # what all tracers share is there too


def test_options_reach_the_tracer(ptlflow):  # noqa: F811
    assert baseline("dis", enlarge=2).name == "dis_x2"
    assert baseline("nearest_patch_color", patch_px=4).patch_px == 4
    assert baseline("raft", model="raft_small", weights=None).name == "raft_small"
    assert baseline("ptlflow", model="raft", ckpt="things").name == "ptlflow_raft"
    assert baseline("ptlflow:raft_small", ckpt="things").name == "ptlflow_raft_small"


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("farnebak", {}, "the nearest is farneback"),
        ("co_tracker", {}, "the nearest is cotracker3"),
        ("dis", {"enlarged": 4}, "no option 'enlarged'; it takes enlarge"),
        ("zero_motion", {"enlarge": 4}, "it has none"),
        ("raft", {"model": "raft_huge"}, "raft_large, raft_small"),
        ("raft", {"weights": "C_T_V9"}, "choose one of C_T_V1, C_T_V2"),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence(name, options, told):
    with pytest.raises(ValueError) as error:
        baseline(name, **options)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_the_door_lists_every_baseline_and_what_is_at_hand(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ptlflow", None)
    console = Console(width=200, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    door.main(console)
    said = console.export_text()
    for each in BASELINES:
        assert f" {each.name} " in said
    assert "no: pip install ptlflow" in said
    assert "weights not here yet" in said
    assert "CC-BY-NC 4.0" in said


def test_weights_that_are_there_are_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = Path(torch.hub.get_dir()) / find("raft").weights_file
    file.parent.mkdir(parents=True)
    file.touch()
    assert find("raft").at_hand() == "yes"


def test_the_weights_file_of_raft_is_that_of_its_default():
    from torchvision.models.optical_flow import Raft_Large_Weights

    takes = inspect.signature(RAFT.__init__).parameters
    default = Raft_Large_Weights[takes["weights"].default]
    assert find("raft").weights_file == f"checkpoints/{default.url.rpartition('/')[2]}"
