"""Who is moved by Muon and who by AdamW, and how the learning rate goes."""

import doctest
from itertools import pairwise

import pytest
import torch

import lras.optim
from lras.config import PredictorConfig
from lras.optim import Schedule, adamw, muon, split_parameters, warmup_stable_decay
from lras.predictor import FramePredictor

NET = FramePredictor(PredictorConfig(num_codes=16, dim=16, num_heads=2, num_layers=2, image_size=8))


def test_muon_gets_exactly_the_matrices_inside_blocks():
    matrices, rest = split_parameters(NET)
    assert len(matrices) == 2 * 6  # query, key, value, out, up, down
    assert len(matrices) + len(rest) == len(list(NET.parameters()))
    tables = {id(NET.token_table.weight), id(NET.place_table.weight), id(NET.pixel_embed.weight)}
    assert tables <= {id(parameter) for parameter in rest}


def test_a_muon_step_moves_a_block_matrix_orthogonally_and_a_table_by_its_own_rate():
    torch.manual_seed(0)
    optimizer = muon(NET, lr=0.5, adamw_lr=0.01)
    matrix, table = NET.blocks[0].attention.query.weight, NET.token_table.weight
    before = matrix.detach().clone(), table.detach().clone()
    for parameter in NET.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    moved = (matrix - before[0]).detach()
    singular = torch.linalg.svdvals(moved) / 0.5
    assert singular.min() > 0.5 and singular.max() < 1.4  # Newton-Schulz, five steps
    # timm's fallback is AdamW with Nesterov momentum: its first step is 1.9 times the rate.
    assert torch.allclose((table - before[1]).abs(), torch.tensor(0.019), rtol=1e-3)


def test_weight_decay_of_adamw_spares_tables_and_norms():
    decays = {group["weight_decay"] for group in adamw(NET).param_groups}
    assert decays == {0.1, 0.0}


def test_the_rate_rises_stays_and_falls_to_zero():
    rates = [warmup_stable_decay(step, 10, 50, 100) for step in range(101)]
    assert rates[0] == 0.1 and rates[9:51] == [1.0] * 42
    assert rates[100] == 0.0 and all(a > b for a, b in pairwise(rates[50:]))


def test_a_decay_that_begins_while_the_rate_rises_meets_it_without_a_leap():
    rates = [warmup_stable_decay(step, 30, 7, 40) for step in range(41)]
    assert rates[:18] == [(step + 1) / 30 for step in range(18)] and rates[40] == 0.0
    assert max(abs(a - b) for a, b in pairwise(rates)) < 1 / 29
    assert warmup_stable_decay(0, 0, 5, 5) == 1.0  # no warm-up at all


@pytest.mark.parametrize(
    "wrong", [{"decay_share": 1.1}, {"decay_share": -0.1}, {"warmup_steps": -1}]
)
def test_a_schedule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="use a share from 0 to 1 and at least 0 steps"):
        Schedule(**wrong)


def test_the_schedule_says_in_its_docstring_what_it_does():
    results = doctest.testmod(lras.optim)
    assert results.attempted and not results.failed
