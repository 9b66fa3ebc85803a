"""Slow twin of lras.decode: one patch and one code at a time, each by a plain full forward."""

import math

import torch
from reference.slow_predictor import read_patch_by_full_forward


def roll_out_by_hand(model, codes0, codes1, revealed, hidden, order0, rounds, draw, noise):
    """Codes (1, patches, codes) of one sample.

    ``revealed`` and ``hidden`` are lists of patches in the order they are given and filled in;
    ``draw(logits, number)`` picks a code from a list of logits, ``noise[patch][slot]`` the number.
    """
    net, grid = model.predictor, model.predictor.cfg.grid
    filled, given, left = codes1.clone(), list(revealed), list(hidden)
    filled[0, hidden] = -999  # whoever looks at a hidden code fails
    for number in range(rounds):
        size = math.ceil(len(left) / (rounds - number))
        asked, left = left[:size], left[size:]
        before = filled.clone()
        for patch in asked:
            own = before.clone()
            own[0, patch] = 0
            for slot in range(codes1.shape[2]):
                logits = read_patch_by_full_forward(
                    net, codes0, own, order0, torch.tensor([given]).long(), patch, grid
                )[slot]
                own[0, patch, slot] = draw(logits.tolist(), noise[patch][slot])
            filled[0, patch] = own[0, patch]
        given = given + asked
    return filled


def draw_by_hand(logits, number, temperature, top_k=None):
    """Walk over the codes until their probabilities add up to more than ``number``."""
    if temperature == 0:
        return logits.index(max(logits))
    allowed = sorted(logits)[-top_k] if top_k else -math.inf
    weights = [math.exp(x / temperature) if x >= allowed else 0.0 for x in logits]
    passed = 0.0
    for code, weight in enumerate(weights):
        passed += weight / sum(weights)
        if passed > number:
            return code
    raise AssertionError("probabilities add up to 1")
