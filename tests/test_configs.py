"""Every YAML composes, says what it is for, and builds the network it promises."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Parameters of the blocks alone, in millions, as the README's table of sizes states them.
BLOCKS_M = {
    "lras_nano": 0.525,
    "lras_micro": 4.7,
    "lras_small": 85,
    "lras_medium": 302,
    "lras_large": 679,
    "lras_1b": 925,
    "lras_7b": 6443,
    "official_1b": 708,
    "official_7b": 6443,
}
# Embeddings, blocks and head together, where the published number is known.
ALL = {"official_7b": 7_038_308_352}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def composed(door: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose(door, list(overrides), return_hydra_config=True)


def on_meta(cfg: DictConfig, part: str) -> torch.nn.Module:
    """What train.py builds of ``cfg.model``, without memory for its weights."""
    with torch.device("meta"):
        return instantiate(cfg.model[part], _convert_="object")


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiment_composes_and_every_reference_in_it_resolves(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LRAS_RUNS", str(tmp_path))
    cfg = composed("train", f"experiment={name}")
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(tmp_path)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("name", names("experiment"))
def test_the_model_of_an_experiment_is_built_on_the_meta_device(name):
    cfg = composed("train", f"experiment={name}")
    predictor, quantizer = on_meta(cfg, "predictor"), on_meta(cfg, "quantizer")
    assert all(parameter.is_meta for parameter in predictor.parameters())
    assert predictor.cfg.num_codes == quantizer.cfg.num_codes
    assert predictor.cfg.code_px == quantizer.cfg.code_px


@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiment_says_how_to_run_it_and_what_to_expect(name):
    head = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()[:20]
    comments = [line for line in head if line.startswith("#")]
    assert any(line.startswith("# Run:") and f"experiment={name}" in line for line in comments)
    assert any(line.startswith("# Expect:") for line in comments)


@pytest.mark.parametrize("name", sorted(set(names("model")) & BLOCKS_M.keys()))
def test_a_named_size_has_the_stated_number_of_parameters(name):
    predictor = on_meta(composed("train", f"model={name}"), "predictor")
    assert num_parameters(predictor.blocks) == pytest.approx(1e6 * BLOCKS_M[name], rel=0.01)
    if name in ALL:
        assert num_parameters(predictor) == ALL[name]


@pytest.mark.parametrize(
    "group, name", [(group, name) for group in ("task", "tracer") for name in names(group)]
)
def test_everything_eval_can_be_asked_for_composes(group, name):
    assert composed("eval", f"{group}={name}")[group] is not None
