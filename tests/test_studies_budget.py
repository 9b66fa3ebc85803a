"""Budgets in tokens and in FLOPs against counts by hand, and the mistakes they are told about."""

import pytest

from data.synthetic import SceneConfig
from lras.config import PredictorConfig
from studies.budget import (
    Spent,
    StageShare,
    budgeted_scenes,
    cost,
    spent_at,
    study_name,
)

MODEL = PredictorConfig(image_size=64, num_codes=512, dim=64, num_heads=2, num_layers=2)


def stages(*shares: float) -> list[StageShare]:
    kinds = [(64, 20), (32, 32)]
    return [
        StageShare(share=share, batch=batch, scene=SceneConfig(size=size))
        for share, (batch, size) in zip(shares, kinds, strict=False)
    ]


def flops_of_a_sequence(patches: int) -> int:
    """Counted out: one code a patch, no pointers in frame 0, a pointer and a code in frame 1."""
    tokens = patches + 2 * patches
    matrices = 2 * (4 * 64 * 64 + 2 * 64 * 128)  # two layers: Q, K, V, output, MLP of twice 64
    pairs = tokens * (tokens + 1) // 2
    attention = 2 * (2 * 64 + 2 * 64) * pairs  # two layers, scores and mixture
    head = 2 * 64 * 512 * patches
    return 3 * (2 * matrices * tokens + attention + head)


def test_tokens_become_the_steps_of_a_count_by_hand():
    # 20 px: 25 patches, 75 tokens, 64 pairs: 4,800 a step. 32 px: 192 tokens, 32 pairs: 6,144.
    data = budgeted_scenes(stages(0.75, 0.25), MODEL, tokens=1e6)
    assert [stage.steps for stage in data.stages] == [156, 41]  # 156.25, 40.69
    assert [stage.batch for stage in data.stages] == [64, 32]
    assert spent_at(data.total_steps, data, MODEL).tokens == 156 * 4800 + 41 * 6144


def test_flops_become_the_steps_of_a_count_by_hand():
    one = 64 * flops_of_a_sequence(25)
    data = budgeted_scenes(stages(1.0), MODEL, flops=100.4 * one)
    assert data.total_steps == 100
    assert cost(data.stages[0], MODEL) == Spent(100, 480_000, 100 * one)


def test_what_is_spent_up_to_a_step_follows_the_stages():
    data = budgeted_scenes(stages(0.75, 0.25), MODEL, tokens=1e6)
    one, two = 64 * flops_of_a_sequence(25), 32 * flops_of_a_sequence(64)
    assert spent_at(0, data, MODEL) == Spent(0, 0, 0)
    assert spent_at(160, data, MODEL) == Spent(160, 156 * 4800 + 4 * 6144, 156 * one + 4 * two)


def test_a_larger_model_gets_fewer_steps_of_the_same_flops_and_as_many_of_the_same_tokens():
    large = PredictorConfig(image_size=64, num_codes=512, dim=128, num_heads=4, num_layers=4)
    by_flops = [budgeted_scenes(stages(1.0), m, flops=1e12).total_steps for m in (MODEL, large)]
    by_tokens = [budgeted_scenes(stages(1.0), m, tokens=1e6).total_steps for m in (MODEL, large)]
    assert by_flops[0] > 3 * by_flops[1]
    assert by_tokens[0] == by_tokens[1] == 208


@pytest.mark.parametrize(
    "shares, budget, said",
    [
        ((1.0,), {}, "tokens=None and scaling.flops=None, expected exactly one"),
        ((1.0,), {"tokens": 1e6, "flops": 1e12}, "expected exactly one"),
        ((1.0,), {"tokens": -1e6}, "expected exactly one positive"),
        ((0.5, 0.25), {"tokens": 1e6}, "add up to 0.75, expected 1"),
        ((0.75, 0.25), {"tokens": 1e5}, "leaves 4 steps of 32 pairs to stage 1, fewer than 10"),
        ((1.0,), {"flops": 1e9}, "scaling.flops=1e.09 leaves 0 steps"),
    ],
)
def test_a_budget_that_makes_no_study_is_told_in_one_sentence(shares, budget, said):
    with pytest.raises(ValueError, match=said):
        budgeted_scenes(stages(*shares), MODEL, **budget)


def test_the_least_budget_that_is_named_is_enough():
    with pytest.raises(ValueError, match="ask for about") as told:
        budgeted_scenes(stages(0.75, 0.25), MODEL, tokens=1e5)
    least = float(str(told.value).split("about ")[1].split(" ")[0])
    assert budgeted_scenes(stages(0.75, 0.25), MODEL, tokens=least).stages[1].steps >= 10


@pytest.mark.parametrize(
    "tokens, flops, name",
    [
        (2.5e6, None, "d64x3-2.5e6tokens-seed0"),
        (5_000_000, None, "d64x3-5e6tokens-seed0"),
        (1_234_567, None, "d64x3-1.234567e6tokens-seed0"),
        (None, 1e13, "d64x3-1e13flops-seed0"),
    ],
)
def test_a_folder_is_named_by_what_was_asked_for(tokens, flops, name):
    assert study_name("d64x3", tokens, flops, 0) == name
