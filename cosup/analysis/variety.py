"""Choose a few samples of many so that no domain and no class fills the list."""

from collections import Counter, deque
from typing import Any

import numpy as np

from cosup.analysis.arrays import Codes, Values

__all__ = ["varied"]

ENOUGH = 0.5
"""Samples with this share of the highest score are taken before all others."""
DIGITS = 3
"""Scores that are equal up to so many decimals are ties."""


def varied(
    score: Values, domain: Codes, kind: Codes, most: int, generator: np.random.Generator
) -> Codes:
    """Return the positions of at most `most` of n samples, in the order in which they are chosen.

    score: [n], at least 0. domain, kind: [n], what must not fill the list; -1 counts as one more.
    The first has the highest score. Each next one is of the pair of domain and kind that was taken
    least so far, of these of the domain, then of the kind taken least, and of these the one with
    the highest score. Samples that score less than half of the highest come last, by score alone.
    Ties are drawn by the generator.
    """
    if not len(score):
        return np.zeros(0, np.int64)
    order = np.lexsort((generator.permutation(len(score)), -np.round(score, DIGITS)))
    enough = score[order] >= ENOUGH * score.max()
    waiting: dict[tuple[int, int], deque[int]] = {}
    for rank in np.flatnonzero(enough).tolist():
        place = order[rank]
        waiting.setdefault((int(domain[place]), int(kind[place])), deque()).append(rank)
    pairs: Counter[Any] = Counter()
    domains: Counter[int] = Counter()
    kinds: Counter[int] = Counter()

    def taken(pair: tuple[int, int]) -> tuple[int, int, int, int]:
        return pairs[pair], domains[pair[0]], kinds[pair[1]], waiting[pair][0]

    chosen: list[int] = []
    while waiting and len(chosen) < most:
        pair = min(waiting, key=taken)
        chosen.append(waiting[pair].popleft())
        if not waiting[pair]:
            del waiting[pair]
        pairs[pair] += 1
        domains[pair[0]] += 1
        kinds[pair[1]] += 1
    chosen += np.flatnonzero(~enough)[: most - len(chosen)].tolist()
    found: Codes = order[chosen].astype(np.int64)
    return found
