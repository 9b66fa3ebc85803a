"""init_from=: what is copied, what is resized, what starts afresh and why."""

import logging

import pytest
import torch

from doors.init_from import OTHER_CODES, warm_start
from lras.checkpoint import load, save
from lras.config import PredictorConfig, QuantizerConfig
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from lras.vocab import TokenRanges
from tests.distributed_runs import train
from tests.tiny_model import states_equal, tiny_model

SIZES = {"image_size": 16, "patch_px": 8, "code_px": 4, "num_codes": 16}
SIZES |= {"dim": 16, "num_heads": 2, "num_layers": 2}


def predictor(seed: int, flavor: str = "modern", **changes) -> FramePredictor:
    torch.manual_seed(seed)
    made = FramePredictor(getattr(PredictorConfig, flavor)(**(SIZES | changes)))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def source(flavor: str = "modern", **changes) -> NextFrame:
    codes = changes.get("num_codes", SIZES["num_codes"])
    return NextFrame(Quantizer(QuantizerConfig(num_codes=codes)), predictor(0, flavor, **changes))


@pytest.mark.parametrize("flavor", ["modern", "official"])
def test_the_same_network_behind_the_same_quantizer_is_taken_whole(flavor):
    given, fresh = source(flavor), predictor(1, flavor)
    done = warm_start(fresh, given, same_codes=True)
    for name, value in fresh.named_parameters():
        assert torch.equal(value, given.predictor.get_parameter(name))
    assert done.num_loaded == done.num_parameters and not done.fresh and not done.resized


def test_rotary_weights_move_to_another_image_size_as_they_are():
    done = warm_start(predictor(1, image_size=32), source(), same_codes=True)
    assert not done.fresh and not done.resized


@pytest.mark.parametrize("num_codes", [16, 64])
def test_codes_of_another_quantizer_start_afresh_and_all_else_is_taken(num_codes):
    given, fresh = source(), predictor(1, num_codes=num_codes)
    before = fresh.token_table.weight.clone()
    done = warm_start(fresh, given, same_codes=False)
    assert done.fresh == {"token_table.weight": OTHER_CODES}
    assert torch.equal(fresh.token_table.weight, before)
    assert torch.equal(fresh.blocks[1].up.weight, given.predictor.blocks[1].up.weight)
    # What a pixel looks like does not depend on how codes are numbered.
    assert torch.equal(fresh.pixel_embed.weight, given.predictor.pixel_embed.weight)


def test_a_slot_table_is_resized_over_the_grid_and_keeps_frame_slot_and_channel_apart():
    given, fresh = source("official"), predictor(1, "official", image_size=32)
    slots, dim = 5, SIZES["dim"]
    table = torch.arange(2 * slots * dim).view(2, 1, 1, slots, dim).expand(2, 2, 2, slots, dim)
    given.predictor.place_table.weight.data = table.reshape(-1, dim).float().clone()
    pointers = torch.tensor([3.0, 7.0])[:, None, None].expand(2, 4, dim).reshape(-1, dim)
    given.predictor.token_table.weight.data[16:] = pointers

    done = warm_start(fresh, given, same_codes=True)

    wanted = table[:, :1, :1].expand(2, 4, 4, slots, dim).reshape(-1, dim).float()
    assert torch.allclose(fresh.place_table.weight, wanted)
    assert torch.equal(fresh.token_table.weight[:16], given.predictor.token_table.weight[:16])
    grown = torch.tensor([3.0, 7.0])[:, None, None].expand(2, 16, dim).reshape(-1, dim)
    assert torch.allclose(fresh.token_table.weight[16:], grown)
    assert set(done.resized) == {"place_table.weight", "token_table.weight", "head.weight"}
    assert done.resized["place_table.weight"] == "resized from 2x2 to 4x4 patches"


def test_resized_places_rise_along_the_axis_they_rose_along():
    given, fresh = source("official"), predictor(1, "official", image_size=32)
    rows = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1).expand(2, 2, 2, 5, SIZES["dim"])
    given.predictor.place_table.weight.data = rows.reshape(-1, SIZES["dim"]).clone()
    warm_start(fresh, given, same_codes=True)
    places = fresh.place_table.weight.view(2, 4, 4, 5, SIZES["dim"])
    assert (places.diff(dim=1) > 0).all() and torch.allclose(places, places[:, :, :1])


LONGER = TokenRanges(
    contents=(0, 16),
    flow=(16, 20),
    pointers1=(20, 24),
    pointers0=(26, 30),
    places1=(0, 20),
    places0=(22, 42),
)
LONG = {"ranges": LONGER, "vocab_size": 30, "num_places": 50}


@pytest.mark.parametrize("image_size", [16, 32])
def test_two_frames_are_taken_out_of_longer_tables_by_the_ranges_of_the_config(image_size):
    given, fresh = source("official", **LONG), predictor(1, "official", image_size=image_size)
    plain = source("official")  # the same rows where a model of two frames has them
    tokens, places = (
        given.predictor.get_parameter(f"{t}_table.weight") for t in ("token", "place")
    )
    head = given.predictor.head.weight
    for name, table in (("token_table", tokens), ("head", head)):
        rows = torch.cat([table[:16], table[26:30], table[20:24]])
        plain.predictor.get_parameter(f"{name}.weight").data = rows.data
    rows = torch.cat([places[22:42], places[:20]])
    plain.predictor.place_table.weight.data = rows.data
    wanted = predictor(1, "official", image_size=image_size)
    warm_start(wanted, plain, same_codes=True)

    done = warm_start(fresh, given, same_codes=True)

    for name in ("token_table.weight", "head.weight", "place_table.weight"):
        assert torch.equal(fresh.get_parameter(name), wanted.get_parameter(name))
    how = "resized from 2x2 to 4x4 patches" if image_size == 32 else "taken from 30 rows, those of "
    assert done.resized["token_table.weight"].startswith(how) and not done.fresh


def test_tables_longer_than_two_frames_fill_start_afresh_and_say_why():
    given, fresh = source("official"), predictor(1, "official", **LONG)
    before = fresh.token_table.weight.clone()
    done = warm_start(fresh, given, same_codes=True)
    tokens = "it has 30 rows here, and two frames there give 24"
    assert done.fresh == {
        "token_table.weight": tokens,
        "head.weight": tokens,
        "place_table.weight": "it has 50 rows here, and two frames there give 40",
    }
    assert torch.equal(fresh.token_table.weight, before)


def test_longer_tables_with_the_same_ranges_are_taken_whole():
    given, fresh = source("official", **LONG), predictor(1, "official", **LONG)
    done = warm_start(fresh, given, same_codes=True)
    assert states_equal(fresh, given.predictor) and not done.resized and not done.fresh


def test_fewer_layers_take_the_first_ones_and_more_start_afresh(caplog):
    fewer = warm_start(predictor(1, num_layers=1), source(), same_codes=True)
    assert not fewer.fresh and all(name.startswith("blocks.1.") for name in fewer.unused)
    more = warm_start(predictor(1, num_layers=3), source(), same_codes=True)
    assert {name.split(".")[1] for name in more.fresh} == {"2"} and not more.unused
    with caplog.at_level(logging.INFO):
        more.report("RUN")
        fewer.report("RUN")
    assert "blocks.2.up.weight starts afresh: there is no such tensor there" in caplog.text
    assert f"no place here for {len(fewer.unused)} tensors" in caplog.text


def test_patches_of_another_number_of_codes_keep_no_place():
    done = warm_start(predictor(1, patch_px=4), source(), same_codes=True)
    assert done.fresh == {"place_table.weight": "a patch has 4 codes there, 1 here"}


@pytest.mark.parametrize("changes", [{"dim": 32}, {"num_heads": 4}, {"mlp_ratio": 3.0}])
def test_a_network_of_other_widths_is_refused_or_named(changes):
    fresh, given = predictor(1, **changes), source()
    if "mlp_ratio" in changes:  # attention still fits
        done = warm_start(fresh, given, same_codes=True)
        assert {name.split(".")[-2] for name in done.fresh} == {"up", "down"}
        return
    with pytest.raises(ValueError, match="no block that fits"):
        warm_start(fresh, given, same_codes=True)


@pytest.mark.slow
def test_a_warm_start_through_the_door_takes_weights_and_quantizer(tmp_path):
    save(tiny_model(), tmp_path / "tiny")
    sizes = ("dim=16", "num_layers=1", "num_codes=16", "image_size=32", "mlp_ratio=2.0")
    words = (*(f"model.predictor.cfg.{size}" for size in sizes), "model.quantizer.cfg.num_codes=16")
    words += (f"init_from={tmp_path / 'tiny'}", "trainer.max_time=00:00:00:00")
    done = train(tmp_path / "run", "experiment=smoke", *words)
    assert done.returncode == 0, done.stderr
    assert "100.0 % of the predictor's parameters loaded" in done.stdout
    assert "is used too" in done.stdout and "quantizer after" not in done.stdout
    given, trained = tiny_model(), load(tmp_path / "run")
    assert states_equal(given.quantizer, trained.quantizer)
    # One warmup step away from where it started, not from random weights.
    table = trained.predictor.token_table.weight
    assert torch.allclose(table, given.predictor.token_table.weight, atol=0.01)
