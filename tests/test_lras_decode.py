"""Roll-out: equals one code at a time, keeps what is revealed, never looks at what is hidden."""

from functools import partial

import pytest
import torch
from reference.slow_decode import draw_by_hand, roll_out_by_hand

from lras.config import PredictorConfig, QuantizerConfig
from lras.decode import draw_codes, draw_noise, roll_out
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from lras.sequence import random_orders


def model(patch_px: int = 8, preset: str = "modern") -> NextFrame:
    torch.manual_seed(0)
    sizes = {"image_size": 24, "patch_px": patch_px, "num_codes": 12, "dim": 16, "num_heads": 2}
    predictor = FramePredictor(getattr(PredictorConfig, preset)(**sizes, num_layers=2))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.8)  # so that what is given changes the answer
    return NextFrame(Quantizer(QuantizerConfig(num_codes=12)), predictor).eval()


def example(made: NextFrame, revealed: int, batch: int = 1):
    generator = torch.Generator().manual_seed(1)
    patches = made.predictor.cfg.grid.num_patches
    codes0, codes1 = torch.randint(0, 12, (2, batch, 6, 6), generator=generator)
    order0, order1 = (random_orders(batch, patches, generator) for _ in range(2))
    reveal = torch.zeros(batch, patches, dtype=torch.bool).scatter(
        1, order1[:, 3:][:, :revealed], 1
    )
    return codes0, codes1, reveal, order0, order1


def dice() -> torch.Generator:
    return torch.Generator().manual_seed(2)


@pytest.mark.parametrize("temperature, top_k", [(0.0, None), (1.0, None), (0.7, 3)])
@pytest.mark.parametrize("preset, patch_px", [("modern", 4), ("modern", 8), ("official", 8)])
def test_roll_out_equals_one_code_at_a_time(preset, patch_px, temperature, top_k):
    made = model(patch_px, preset)
    grid = made.predictor.cfg.grid
    codes0, codes1, reveal, order0, order1 = example(made, revealed=2)
    shown = [p for p in order1[0].tolist() if reveal[0, p]]
    hidden = [p for p in order1[0].tolist() if not reveal[0, p]]
    for rounds in (1, 3, len(hidden)):
        drawn = roll_out(
            made, codes0, codes1, reveal, order0, order1, rounds, temperature, dice(), top_k
        )
        slow = roll_out_by_hand(
            made,
            grid.to_patches(codes0),
            grid.to_patches(codes1),
            shown,
            hidden,
            order0,
            rounds,
            partial(draw_by_hand, temperature=temperature, top_k=top_k),
            draw_noise(grid, 1, dice())[0].tolist(),
        )
        assert torch.equal(drawn, grid.to_cells(slow))


def test_rounds_and_temperature_matter():
    made = model(patch_px=4)
    given = example(made, revealed=2)
    one, three, all_34 = (roll_out(made, *given, rounds, 1.0, dice()) for rounds in (1, 3, 34))
    coldest = roll_out(made, *given, 34, 0.0, dice())
    assert len({tuple(codes.flatten().tolist()) for codes in (one, three, all_34, coldest)}) == 4


def test_revealed_patches_keep_their_codes_and_hidden_ones_are_never_looked_at():
    made = model()
    grid = made.predictor.cfg.grid
    codes0, codes1, reveal, order0, order1 = example(made, revealed=4, batch=3)
    other = grid.to_patches(codes1).clone()
    other[~reveal] = (other[~reveal] + 5) % 12
    other = grid.to_cells(other)
    drawn, again = (
        roll_out(made, codes0, codes, reveal, order0, order1, 3, 1.0, dice())
        for codes in (codes1, other)
    )
    assert torch.equal(drawn, again)
    assert torch.equal(grid.to_patches(drawn)[reveal], grid.to_patches(codes1)[reveal])
    assert not torch.equal(drawn, codes1)


@pytest.mark.parametrize("revealed", [0, 9])
def test_nothing_and_everything_may_be_revealed(revealed):
    made = model()
    codes0, codes1, _, order0, order1 = example(made, revealed=0)
    reveal = torch.full((1, 9), revealed == 9)
    drawn = roll_out(made, codes0, codes1, reveal, order0, order1, 1, 1.0, dice())
    assert drawn.shape == codes1.shape
    assert torch.equal(drawn, codes1) == (revealed == 9)


def test_codes_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([0.5, 0.2, 0.3, 0.0]).log()
    noise = torch.rand(20_000, generator=dice())
    drawn = draw_codes(logits.expand(20_000, 4), noise, temperature=1.0)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, torch.tensor([0.5, 0.2, 0.3, 0.0]), atol=0.015)
    few = draw_codes(logits.expand(20_000, 4), noise, temperature=1.0, top_k=2)
    shares = torch.bincount(few, minlength=4) / 20_000
    assert torch.allclose(shares, torch.tensor([0.625, 0.0, 0.375, 0.0]), atol=0.015)


def test_the_ends_of_the_noise_never_draw_an_impossible_code():
    logits = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf]).expand(2, 4)
    noise = torch.tensor([0.0, 1 - 2**-24])
    assert draw_codes(logits, noise, temperature=1.0).tolist() == [1, 2]


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"rounds": 0}, "rounds=0 does not divide 7 hidden patches"),
        ({"rounds": 8}, "pass 1 .* to 7"),
        ({"temperature": -1.0}, "pass 0 for the likeliest"),
        ({"top_k": 0}, "pass 1 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong, sentence):
    made = model()
    settings = {"rounds": 1, "temperature": 1.0, "generator": dice()} | wrong
    with pytest.raises(ValueError, match=sentence):
        roll_out(made, *example(made, revealed=2), **settings)


def test_logits_that_are_no_numbers_are_refused():
    made = model()
    made.predictor.final_norm.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        roll_out(made, *example(made, revealed=2), 1, 1.0, dice())
