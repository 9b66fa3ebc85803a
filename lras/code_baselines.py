"""What codes of frame 1 cost without a model: by how common they are, and by copying frame 0.

Both are exact functions of three histograms over the held-out codes: of frame 0, of frame 1, and
of those codes of frame 1 that also stand in frame 0 at the same place. Histograms add up over
batches and ranks, so the figures are those of the whole validation set.
"""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

SMOOTHING = 0.5  # counts added to every code (Krichevsky and Trofimov 1981)

Histogram = Int[Tensor, " vocab"]


def unigram(frame0: Histogram) -> Float64[Tensor, " vocab"]:
    """Probability of each code: its smoothed share of the held-out codes of frame 0.

    Frame 0 is given to the model too, so nothing that is predicted has been counted.
    """
    counts = frame0.double() + SMOOTHING
    return counts / counts.sum()


def unigram_nats(frame0: Histogram, frame1: Histogram) -> float:
    """Nats per code of frame 1 under ``unigram(frame0)``; NaN where there is no code."""
    return _mean(frame1.double() * -unigram(frame0).log(), frame1)


def copy_nats(frame0: Histogram, frame1: Histogram, same: Histogram) -> float:
    """Nats per code of frame 1 under a copy of frame 0, NaN where there is no code.

    P(code) = w * [the code of frame 0 at this place] + (1 - w) * unigram. The one weight w is
    fitted to the very codes it is scored on, which can only flatter the baseline.
    """
    prior = unigram(frame0)
    kept, changed = same.double(), (frame1 - same).double()
    weight = copy_weight(prior, kept, changed)
    nats = -kept * (weight + (1 - weight) * prior).log()
    nats = nats - torch.special.xlogy(changed, (1 - weight) * prior)
    return _mean(nats, frame1)


def copy_weight(
    prior: Float64[Tensor, " vocab"],
    kept: Float64[Tensor, " vocab"],
    changed: Float64[Tensor, " vocab"],
) -> float:
    """The likeliest weight of copying, by bisection: the log-likelihood is concave in it."""
    low, high = 0.0, 1.0
    for _ in range(60):
        weight = (low + high) / 2
        slope = (kept * (1 - prior) / (weight + (1 - weight) * prior)).sum()
        slope = slope - changed.sum() / (1 - weight)
        low, high = (weight, high) if slope > 0 else (low, weight)
    return low


def perplexity(counts: Histogram) -> float:
    """exp(entropy) of the codes' shares: how many codes, were all used alike; NaN without any."""
    share = counts.double() / counts.sum()
    return float(torch.special.entr(share).sum().exp())


def _mean(nats: Float[Tensor, " vocab"], counts: Histogram) -> float:
    return float(nats.sum() / counts.sum())
