"""KL in nats: closed forms, directions, precision."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from tracing import kl
from tracing.kl import kl_map


def logits_pair(vocab=7):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 3, 4, vocab, generator=generator).unbind(0)


def test_two_codes_have_the_closed_form():
    fair, biased = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    got = kl_map(fair.view(1, 1, 2), biased.view(1, 1, 2), "clean_perturbed")
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-7)


def test_directions_agree_with_torch_distributions():
    clean, perturbed = logits_pair()
    p, q = Categorical(logits=clean.double()), Categorical(logits=perturbed.double())
    forth, back = kl_divergence(p, q), kl_divergence(q, p)
    torch.testing.assert_close(kl_map(clean, perturbed, "clean_perturbed"), forth)
    torch.testing.assert_close(kl_map(clean, perturbed, "perturbed_clean"), back)
    torch.testing.assert_close(kl_map(clean, perturbed, "symmetric"), (forth + back) / 2)


@pytest.mark.parametrize("direction", ["clean_perturbed", "perturbed_clean", "symmetric"])
def test_equal_logits_have_no_divergence_and_a_constant_changes_nothing(direction):
    clean, _ = logits_pair()
    assert not kl_map(clean, clean.clone(), direction).any()
    assert kl_map(clean, clean + 8, direction).max() < 1e-12


def test_tiny_divergence_over_the_official_vocabulary_survives():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 1, 65_536, generator=generator)
    perturbed = clean.clone()
    perturbed[..., 17] += 0.5
    p = clean.double().softmax(-1)[0, 0, 17].item()
    expected = math.log1p(p * math.expm1(0.5)) - 0.5 * p  # one raised logit, exactly
    assert expected < 1e-5
    got = kl_map(clean, perturbed, "clean_perturbed").item()
    assert got == pytest.approx(expected, rel=1e-3)


def test_chunks_do_not_change_the_answer(monkeypatch):
    clean, perturbed = logits_pair()
    whole = kl_map(clean, perturbed)
    monkeypatch.setattr(kl, "SCRATCH_NUMBERS_CPU", 35)
    assert torch.equal(kl_map(clean, perturbed), whole)


def test_different_shapes_are_refused():
    # With the shape checker on, it objects first, with its own error.
    with pytest.raises((ValueError, TypeError)):
        kl_map(torch.zeros(2, 2, 5), torch.zeros(2, 2, 6))
