"""The two baselines of the loss and the perplexity, against counting one code after another."""

import math

import pytest
import torch
from reference.slow_code_baselines import copy_nats_by_hand, unigram_nats_by_hand

from lras.code_baselines import copy_nats, perplexity, unigram, unigram_nats

VOCAB = 9


def codes(share_kept: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Unevenly common codes of two frames, of which a share stays where it was."""
    generator = torch.Generator().manual_seed(seed)
    frame0, fresh = (torch.rand(2, 300, generator=generator).square() * (VOCAB - 1)).long()
    kept = torch.rand(300, generator=generator) < share_kept
    return frame0.tolist(), torch.where(kept, frame0, fresh).tolist()


def histograms(frame0: list[int], frame1: list[int]) -> list[torch.Tensor]:
    same = [code for before, code in zip(frame0, frame1, strict=True) if before == code]
    return [
        torch.bincount(torch.tensor(part, dtype=torch.long), minlength=VOCAB)
        for part in (frame0, frame1, same)
    ]


@pytest.mark.parametrize("share_kept", [0.0, 0.3, 0.9])
def test_baselines_equal_counting_by_hand(share_kept):
    frame0, frame1 = codes(share_kept)
    before, after, same = histograms(frame0, frame1)
    by_hand = unigram_nats_by_hand(frame0, frame1, VOCAB)
    assert unigram_nats(before, after) == pytest.approx(by_hand, abs=1e-12)
    tried = copy_nats_by_hand(frame0, frame1, VOCAB)
    fitted = copy_nats(before, after, same)
    assert tried - 1e-4 < fitted <= tried + 1e-12  # the fit is finer than the weights tried


def test_a_still_scene_costs_a_copy_nothing_and_a_unigram_its_entropy():
    frame0, _ = codes(1.0)
    before, after, same = histograms(frame0, frame0)
    assert copy_nats(before, after, same) == pytest.approx(0.0, abs=1e-9)
    assert unigram_nats(before, after) > 1.0


def test_a_copy_that_never_fits_is_the_unigram():
    frame0, _ = codes(1.0)
    frame1 = [(code + 1) % VOCAB for code in frame0]
    before, after, same = histograms(frame0, frame1)
    assert copy_nats(before, after, same) == pytest.approx(unigram_nats(before, after), abs=1e-9)


def test_the_unigram_sums_to_one_and_leaves_no_code_out():
    prior = unigram(torch.tensor([10, 0, 0])).tolist()
    assert prior == [10.5 / 11.5, 0.5 / 11.5, 0.5 / 11.5] and sum(prior) == pytest.approx(1)


def test_perplexity_counts_the_codes_that_are_used_alike():
    assert perplexity(torch.tensor([7, 7, 0, 7])) == pytest.approx(3.0)
    assert perplexity(torch.tensor([5, 0])) == pytest.approx(1.0)
    assert math.isnan(perplexity(torch.tensor([0, 0])))
