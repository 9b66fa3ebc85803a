"""What each device of many holds under FSDP2, counted without a weight."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from doors.sharded_plan import is_fsdp, sharded_table, share_of
from lras.config import PredictorConfig
from lras.predictor import FramePredictor

GB = 10**9


@pytest.fixture(scope="module")
def official_7b() -> FramePredictor:
    cfg = OmegaConf.load("configs/model/official_7b.yaml")
    with torch.device("meta"):
        return instantiate(cfg.predictor, _convert_="object")


def test_the_published_network_has_as_many_parameters_as_published(official_7b):
    assert sum(p.numel() for p in official_7b.parameters()) == 7_038_308_352


@pytest.mark.parametrize("devices", [8, 16, 64])
def test_what_is_cut_is_cut_evenly_and_what_is_gathered_is_not(devices, official_7b):
    whole = 4 * 7_038_308_352
    share = share_of(official_7b, states=2 * whole, activations=GB, devices=devices)
    assert share.weights == share.gradients == pytest.approx(whole / devices, rel=1e-3)
    assert share.states == pytest.approx(2 * whole / devices, rel=1e-3)
    block = sum(p.numel() for p in official_7b.blocks[0].parameters())
    tables = 7_038_308_352 - 32 * block
    assert share.gathered == 2 * 4 * (tables + 2 * block)
    assert share.total == share.weights * 2 + share.states + share.gathered + GB


def test_rows_that_do_not_divide_are_padded():
    with torch.device("meta"):
        small = FramePredictor(PredictorConfig(image_size=16, num_codes=16, dim=16, num_heads=2))
    assert share_of(small, 0, 0, 1000).weights >= 4 * sum(1 for _ in small.parameters())


def test_the_table_has_a_row_for_each_number_of_devices(official_7b):
    console = Console(width=140, record=True)
    console.print(sharded_table(official_7b, 56 * GB, 20 * GB))
    text = console.export_text()
    assert "7,038,308,352" in text and all(f" {n} " in text for n in (8, 16, 64))
    assert text.count("yes") == 3


def test_only_a_trainer_that_shards_gets_a_plan():
    for name, expected in (("fsdp", True), ("ddp", False), ("cpu", False)):
        assert (
            is_fsdp(OmegaConf.create({"trainer": OmegaConf.load(f"configs/trainer/{name}.yaml")}))
            == expected
        )
