"""study.json: what is written is read again, and a damaged one is told in a sentence."""

import json
import math
from dataclasses import asdict, replace

import pytest

from studies.card import CARD, Card, CurveFigures, CurvePoint, Parameters, SetFigures


def card() -> Card:
    easy = SetFigures(
        points=48,
        epe_px=1.5,
        epe_ci95_px=(1.25, 1.75),
        ad_px=6.0,
        delta_avg=0.75,
        hit=0.9,
        zero_epe_px=8.5,
        floor_px=0.0,
    )
    point = CurvePoint(
        step=10,
        tokens=72_000,
        flops=2.5e11,
        sets={"easy": CurveFigures(epe_px=8.0, zero_epe_px=8.5, hit=0.1)},
    )
    return Card(
        size="d64x2",
        seed=1,
        parameters=Parameters(blocks=65_796, embeddings=36_160, head=0, total=101_956),
        budget={"tokens": 2e6},
        tokens=2_000_016,
        flops=1.5e12,
        steps=278,
        seconds=61.5,
        loss_nats=2.25,
        sets={"easy": easy},
        curve=(point,),
        git_sha="0123abc",
        machine="a CPU, 1 threads",
        command="python train.py -m experiment=scaling",
    )


def test_a_card_is_read_as_it_was_written(tmp_path):
    card().write(tmp_path / CARD)
    assert Card.read(tmp_path / CARD) == card()
    plain = json.loads((tmp_path / CARD).read_text())
    assert plain["schema"] == 1 and plain["sets"]["easy"]["epe_ci95_px"] == [1.25, 1.75]


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda plain: plain["parameters"].update(blocks=0), "parameters.blocks is 0"),
        (lambda plain: plain.update(tokens=0), "tokens is 0"),
        (lambda plain: plain.update(flops=None), "flops is None"),
        (lambda plain: plain.update(budget={"tokens": -1.0}), "budget.tokens is -1.0"),
        (lambda plain: plain["sets"]["easy"].update(zero_epe_px=0), "sets.easy.zero_epe_px is 0"),
        (lambda plain: plain["sets"]["easy"].update(zero_epe_px=None), "zero_epe_px is None"),
        (
            lambda plain: plain["curve"][0]["sets"]["easy"].update(zero_epe_px=0.0),
            "curve.0.sets.easy.zero_epe_px is 0.0",
        ),
    ],
)
def test_what_is_divided_by_is_above_zero_or_the_card_is_damaged(tmp_path, change, field):
    plain = json.loads(json.dumps(asdict(card())))
    change(plain)
    (tmp_path / CARD).write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=f"{field}, expected a number above 0"):
        Card.read(tmp_path / CARD)


def test_an_error_that_diverged_is_no_damage(tmp_path):
    easy = replace(card().sets["easy"], epe_px=math.nan)
    replace(card(), sets={"easy": easy}).write(tmp_path / CARD)
    assert math.isnan(Card.read(tmp_path / CARD).sets["easy"].epe_px)


def test_a_loss_that_diverged_is_null_in_the_file_and_no_number_in_the_card(tmp_path):
    replace(card(), loss_nats=math.nan).write(tmp_path / CARD)
    assert json.loads((tmp_path / CARD).read_text())["loss_nats"] is None
    assert math.isnan(Card.read(tmp_path / CARD).loss_nats)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda plain: plain.pop("seed"), "field seed is missing"),
        (lambda plain: plain["sets"]["easy"].pop("hit"), "field sets.easy.hit is missing"),
        (lambda plain: plain.update(colour=1), "field colour is not known"),
        (lambda plain: plain.update(steps=2.5), "field steps is 2.5, expected a whole number"),
        (lambda plain: plain.update(tokens=True), "field tokens is True, expected a whole number"),
        (lambda plain: plain.update(size=None), "field size is None, expected a text"),
        (lambda plain: plain.update(sets=[]), r"field sets is \[\], expected an object"),
        (lambda plain: plain.update(flops="many"), "field flops is 'many', expected a number"),
        (
            lambda plain: plain["sets"]["easy"].update(epe_ci95_px=[1.0]),
            r"field sets.easy.epe_ci95_px is \[1.0\], expected 2 numbers",
        ),
        (
            lambda plain: plain["curve"][0]["sets"]["easy"].update(epe_px="low"),
            "field curve.0.sets.easy.epe_px is 'low', expected a number",
        ),
        (
            lambda plain: plain.update(budget={"tokens": 1.0, "flops": 1.0}),
            "field budget holds .'flops', 'tokens'., expected tokens or flops",
        ),
        (lambda plain: plain.update(schema=2), "field schema is 2 and this code reads 1"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_its_file_and_the_way_out(tmp_path, change, said):
    plain = json.loads(json.dumps(asdict(card())))
    change(plain)
    path = tmp_path / CARD
    path.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=f"{path}: {said}.*with this file deleted"):
        Card.read(path)


@pytest.mark.parametrize("text, said", [("{", "is no JSON"), ("[]", "expected an object")])
def test_a_file_that_is_no_card_is_told_so(tmp_path, text, said):
    (tmp_path / CARD).write_text(text)
    with pytest.raises(ValueError, match=said):
        Card.read(tmp_path / CARD)
