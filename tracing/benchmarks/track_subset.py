"""A seeded draw from all (query, target frame) items of a data set, stratified by frame gap.

The draw depends on the seed and on how many items of each gap there are, on nothing else: not on
the machine, and not on torch's or numpy's generators.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int


def quotas(counts: dict[int, int], number: int) -> dict[int, int]:
    """How many of each gap to draw: in proportion, by largest remainders; ties to short gaps."""
    total = sum(counts.values())
    whole = {gap: number * count // total for gap, count in counts.items()}
    left = number - sum(whole.values())
    by_rest = sorted(counts, key=lambda gap: (-(number * counts[gap] % total), abs(gap), gap))
    return {gap: whole[gap] + (gap in by_rest[:left]) for gap in sorted(counts)}


def drawn(
    gaps: Sequence[Int[np.ndarray, " _"]], number: int, seed: int
) -> list[Bool[np.ndarray, " _"]]:
    """Which items take part, video by video; ``gaps`` are target frame - query frame.

    Raises:
        ValueError: there are fewer items than asked for, or none is asked for.
    """
    counts: Counter[int] = Counter()
    for own in gaps:
        values, count = np.unique(own, return_counts=True)
        counts.update(dict(zip(values.tolist(), count.tolist(), strict=True)))
    if not 1 <= number <= counts.total():
        raise ValueError(
            f"a subset of {number} items was asked for, of {counts.total()} that there are; pass a "
            "task.num_queries or task.share between these."
        )
    chosen = {
        gap: np.array(sorted(random.Random(f"subset/{seed}/{gap}").sample(range(counts[gap]), few)))
        for gap, few in quotas(dict(counts), number).items()
        if few
    }
    before: Counter[int] = Counter()  # items of each gap in the videos so far
    taken = []
    for own in gaps:
        mask = np.zeros(len(own), bool)
        for gap in np.unique(own).tolist():
            here = (own == gap).nonzero()[0]
            if gap in chosen:
                rank = chosen[gap] - before[gap]
                mask[here[rank[(rank >= 0) & (rank < len(here))]]] = True
            before[gap] += len(here)
        taken.append(mask)
    return taken


def fingerprint(items: Sequence[tuple[str, Int[np.ndarray, "_ 3"]]]) -> str:
    """Hash of what takes part: video names and (point, query frame, target frame) of each item."""
    digest = hashlib.sha256()
    for name, rows in items:
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(rows, "<i8").tobytes())
    return digest.hexdigest()[:16]
