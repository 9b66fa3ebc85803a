"""Slow twin of lras.code_baselines: one code at a time, and every weight tried."""

import math


def unigram_by_hand(frame0, code, num_codes):
    """Probability of ``code``: its share of the codes of frame 0, half a count more each."""
    return (frame0.count(code) + 0.5) / (len(frame0) + 0.5 * num_codes)


def unigram_nats_by_hand(frame0, frame1, num_codes):
    nats = [-math.log(unigram_by_hand(frame0, code, num_codes)) for code in frame1]
    return sum(nats) / len(nats)


def copy_nats_by_hand(frame0, frame1, num_codes, steps=1000):
    """Best mean over the weights 0, 1/steps, ... of copying the code at the same place."""
    prior = {code: unigram_by_hand(frame0, code, num_codes) for code in set(frame1)}
    means = []
    for step in range(steps):
        weight = step / steps
        nats = [
            -math.log(weight * (before == code) + (1 - weight) * prior[code])
            for before, code in zip(frame0, frame1, strict=True)
        ]
        means.append(sum(nats) / len(nats))
    return min(means)
