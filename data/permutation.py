"""Orders of any length that are never held: where a position goes is worked out on the spot.

A keyed Feistel network permutes the square of a power of two; what falls outside the length is sent
on until it falls inside (cycle walking). Short orders are sorted by scrambled numbers. Whole
numbers only, so every platform agrees.
"""

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 6
SHORT = 1024  # up to here, sorting the whole order is as quick


def key_of(*parts: str | int) -> int:
    """64 bits that depend on all parts and their order."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def scramble(values: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """Each value to 64 well mixed bits.

    Source: the finalizer of SplitMix64, Steele et al. 2014, doi:10.1145/2714064.2660195.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permuted(positions: Int64[np.ndarray, " n"], length: int, key: int) -> Int64[np.ndarray, " n"]:
    """Where the order of this key sends positions of [0, length): one to one, into [0, length)."""
    if length <= SHORT:
        return sorted_by_chance(length, key)[positions]
    half = -(-(length - 1).bit_length() // 2)
    rounds = scramble(np.array([(key + r) % 2**64 for r in range(1, ROUNDS + 1)], np.uint64))
    out = _network(positions.astype(np.uint64), half, rounds)
    outside = np.flatnonzero(out >= length)
    while len(outside):
        out[outside] = _network(out[outside], half, rounds)
        outside = outside[out[outside] >= length]
    return out.astype(np.int64)


def sorted_by_chance(length: int, key: int) -> Int64[np.ndarray, " length"]:
    """[0, length) in an order of this key, all of it held in memory."""
    numbers = scramble(np.arange(length, dtype=np.uint64))
    return np.argsort(scramble(numbers ^ np.uint64(key)), kind="stable")


def _network(
    values: UInt64[np.ndarray, " n"], half: int, rounds: UInt64[np.ndarray, " rounds"]
) -> UInt64[np.ndarray, " n"]:
    bits, mask = np.uint64(half), np.uint64(2**half - 1)
    left, right = values >> bits, values & mask
    for each in rounds:
        left, right = right, left ^ (scramble(right ^ each) & mask)
    return left << bits | right


def shuffled(length: int, key: int) -> Int64[np.ndarray, " length"]:
    """The whole order of a short list at once."""
    return permuted(np.arange(length), length, key)
