"""One quantizer for all runs of a seed: later ones find it, whatever their budget and size."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

import studies.quantizers
from data.claims import claim
from lras.checkpoint import load_quantizer
from studies.quantizers import shared_quantizer
from tests.distributed_runs import ROOT

TINY = (
    "experiment=scaling",
    "scaling.size=some",
    "quantizer_steps=4",
    "model.quantizer.cfg.num_codes=32",
    "model.predictor.cfg.num_codes=32",
    "data.textures=20",
    "data.stages.0.batch=8",
    "data.stages.1.batch=8",
)


def shared(study: Path, *words: str) -> Path:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg: DictConfig = compose("train", [*TINY, *words])
    return shared_quantizer(cfg, instantiate(cfg.data, _convert_="object"), study)


@pytest.fixture
def trainings(monkeypatch) -> list[Path]:
    """Every quantizer that was trained, in their order."""
    done, train = [], studies.quantizers._train

    def noted(cfg, data, path):
        done.append(path)
        train(cfg, data, path)

    monkeypatch.setattr(studies.quantizers, "_train", noted)
    return done


def test_runs_of_one_seed_share_a_quantizer_and_other_seeds_and_codebooks_do_not(
    tmp_path, trainings
):
    first = shared(tmp_path, "scaling.tokens=2e6")
    assert trainings == [first]
    larger = ("model=d160x5", "scaling.tokens=null", "scaling.flops=1e13")
    assert shared(tmp_path, *larger) == first and trainings == [first]
    others = [shared(tmp_path, *words) for words in (["seed=1"], ["quantizer_steps=5"])]
    assert len({first, *others}) == 3 and trainings == [first, *others]


def test_the_budget_of_whoever_comes_first_leaves_no_trace_in_the_weights(tmp_path, trainings):
    one = shared(tmp_path / "a", "scaling.tokens=2e6")
    # So short a run that its own stages hold fewer steps than the quantizer takes.
    other = shared(tmp_path / "b", "scaling.tokens=1e5", "quantizer_steps=4")
    assert len(trainings) == 2
    assert load_quantizer(one).fingerprint() == load_quantizer(other).fingerprint()


def test_a_quantizer_that_another_process_trains_is_waited_for(tmp_path, monkeypatch, trainings):
    ready = shared(tmp_path / "elsewhere")
    name = f"quantizer-{ready.name}"
    (tmp_path / "here" / ".claims").mkdir(parents=True)
    theirs = claim(tmp_path / "here" / ".claims" / name)
    path = tmp_path / "here" / "quantizers" / ready.name

    def they_finish(seconds):
        path.parent.mkdir()
        ready.rename(path)
        theirs.release()

    monkeypatch.setattr(studies.quantizers.time, "sleep", they_finish)
    assert shared(tmp_path / "here") == path and len(trainings) == 1
