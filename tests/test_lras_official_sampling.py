"""Drawing tokens: what each rule keeps, in which order the rules come."""

import pytest
import torch

from lras.official.sampling import GREEDY, Sampler, sampling_probabilities

LOGITS = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


def kept(*rules) -> list[int]:
    return sampling_probabilities(LOGITS, *rules).nonzero()[:, 0].tolist()


def test_temperature_divides_the_logits():
    cold = sampling_probabilities(LOGITS, 0.5)
    assert torch.allclose(cold, torch.tensor([16.0, 9, 4, 1]) / 30)
    assert torch.allclose(sampling_probabilities(LOGITS), LOGITS.exp())


def test_temperature_zero_is_the_arg_max():
    assert sampling_probabilities(LOGITS.flip(0), 0.0, 2, 0.5).tolist() == [0, 0, 0, 1]
    assert GREEDY(LOGITS.flip(0)[None, None]).tolist() == [[3]]


def test_top_k_keeps_ties_with_the_last_place():
    tied = torch.tensor([3.0, 2.0, 2.0, 1.0])
    assert sampling_probabilities(tied, 1.0, 2).nonzero()[:, 0].tolist() == [0, 1, 2]
    assert kept(1.0, 2) == [0, 1]
    assert kept(1.0, 1000) == [0, 1, 2, 3]


def test_top_p_keeps_the_one_that_crosses_it():
    assert kept(1.0, None, 0.5) == [0, 1]
    assert kept(1.0, None, 0.35) == [0]
    assert kept(1.0, None, 0.0) == [0]
    assert kept(1.0, None, 1.0) == [0, 1, 2, 3]
    even = sampling_probabilities(torch.zeros(4), 1.0, None, 0.5)
    assert int((even > 0).sum()) == 3  # reaching it is not crossing it


def test_top_p_counts_what_top_k_and_temperature_left():
    # Of the first two alone, 4/7 is beyond 0.5; of all four, 0.4 is not.
    assert kept(1.0, 2, 0.5) == [0]
    # Colder, 16/30 is beyond 0.5.
    assert kept(0.5, None, 0.5) == [0]


def test_tokens_keep_their_places_whatever_their_rank():
    mixed = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    assert sampling_probabilities(mixed, 1.0, None, 0.5).nonzero()[:, 0].tolist() == [1, 3]


def test_draws_follow_the_distribution_and_their_seed():
    sampler = Sampler(top_k=2, top_p=None, generator=torch.Generator().manual_seed(0))
    drawn = sampler(LOGITS.expand(50, 200, 4))
    assert drawn.shape == (50, 200) and set(drawn.unique().tolist()) == {0, 1}
    assert float((drawn == 0).float().mean()) == pytest.approx(4 / 7, abs=0.015)
    again = Sampler(top_k=2, top_p=None, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(LOGITS.expand(50, 200, 4)), drawn)


@pytest.mark.parametrize(
    "rules, said",
    [
        ({"temperature": -1.0}, "temperature=-1.0 is negative"),
        ({"top_k": 0}, "top_k=0 keeps no token"),
        ({"top_p": 1.5}, "top_p=1.5 is no probability"),
        ({}, "temperature=1.0 draws at random; pass a seeded torch.Generator"),
    ],
)
def test_senseless_rules_are_refused(rules, said):
    with pytest.raises(ValueError, match=said):
        Sampler(**rules)
