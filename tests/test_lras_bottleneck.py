"""Entropies of a lookup-free quantizer against the softmax over all codes; codes alone."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from lras import bottleneck
from lras.bottleneck import FSQ, LFQ, KMeansCodebook
from tests.reference.slow_entropy import full_entropies


def units(cells: int, bits: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(cells, bits, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("bits", [3, 10])
def test_a_cells_entropy_is_that_of_the_softmax_over_all_codes(bits, temperature):
    unit = units(40, bits)
    own, of_mean = LFQ(bits, 0.1, temperature).eval().entropies(unit)
    full_own, full_mean = full_entropies(unit, temperature)
    assert abs(own - full_own) < 1e-6
    assert of_mean >= full_mean - 1e-4  # bits of the mean taken for independent: a bound


@pytest.mark.slow
def test_a_cells_entropy_is_the_full_one_at_sixteen_bits_too():
    unit = units(4, 16)
    own, _ = LFQ(16, 0.1).eval().entropies(unit)
    assert abs(own - full_entropies(unit, 0.1)[0]) < 1e-6


def test_the_entropy_of_one_cells_mean_is_its_own():
    unit = units(1, 5)
    own, of_mean = LFQ(5, 0.1).eval().entropies(unit)
    assert abs(own - of_mean) < 1e-4


def test_entropies_of_confident_cells_have_finite_gradients():
    unit = units(8, 4).requires_grad_()
    own, of_mean = LFQ(4, 0.1, temperature=1e-4).eval().entropies(unit)
    (own - of_mean).backward()
    assert torch.isfinite(unit.grad).all()


BOTTLENECKS = {"kmeans": KMeansCodebook(32, 5), "lfq": LFQ(5, 0.1), "fsq": FSQ((4, 3, 2, 2, 2))}


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_codes_alone_are_those_of_a_training_pass(name):
    own, latent = BOTTLENECKS[name], torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(own.quantize(latent), own(latent)[1])
    assert torch.equal(own.embed(own.quantize(latent)), own.embed(own(latent)[1]))


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_codes_alone_never_wait_for_other_ranks(name, monkeypatch):
    def meet(*args):
        raise AssertionError("ranks met")

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(bottleneck, "_global_mean", meet)
    BOTTLENECKS[name].train().quantize(torch.randn(6, 5))
    if name == "lfq":
        with pytest.raises(AssertionError, match="ranks met"):
            BOTTLENECKS[name](torch.randn(6, 5))
