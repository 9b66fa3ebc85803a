"""Which of several folders each sample comes from: by weight, exactly, and the same every time."""

import numpy as np
from jaxtyping import Int64

from data.permutation import key_of, shuffled

CYCLE = 1000  # samples of a stream in which every folder gets its exact share


class Mixture:
    """Deals the samples of each stream to folders; in every 1,000 in a row, in exact proportion.

    Shares are rounded to a thousandth, and no folder gets less than one.

    Raises:
        ValueError: a weight is not positive, or there are over 1,000 folders.
    """

    def __init__(self, weights: list[int | float], seed: int) -> None:
        if not all(0 < weight < float("inf") for weight in weights) or len(weights) > CYCLE:
            raise ValueError(
                f"got data.weights={weights}; pass one positive number for each of at most {CYCLE} "
                f"folders, and leave out those that are not to be read."
            )
        self.seed, self.counts = seed, _counts(weights)
        self._dealt = np.repeat(np.arange(len(weights)), self.counts)
        self._before = np.concatenate([np.arange(count) for count in self.counts])

    def assign(
        self, stream: Int64[np.ndarray, " n"], number: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The folder of the ``number``-th sample of each stream, and which of the samples that the
        stream takes from that folder it is; each is taken once.
        """
        cycle, slot = np.divmod(number, CYCLE)
        source, before = np.empty_like(slot), np.empty_like(slot)
        for own_stream, own_cycle in {*zip(stream.tolist(), cycle.tolist(), strict=True)}:
            rows = (stream == own_stream) & (cycle == own_cycle)
            order = shuffled(CYCLE, key_of(self.seed, "mixture", own_stream, own_cycle))
            card = order[slot[rows]]
            source[rows] = self._dealt[card]
            before[rows] = own_cycle * self.counts[source[rows]] + self._before[card]
        return source, before


def _counts(weights: list[int | float]) -> Int64[np.ndarray, " folders"]:
    """Samples of each folder in a cycle: largest remainders, and one at least."""
    share = np.array(weights) / sum(weights) * CYCLE
    counts = np.maximum(1, np.floor(share).astype(np.int64))
    while counts.sum() != CYCLE:
        step = 1 if counts.sum() < CYCLE else -1
        spare = np.where((step > 0) | (counts > 1), step * (share - counts), -np.inf)
        counts[np.argmax(spare)] += step
    return counts
