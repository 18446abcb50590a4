"""Few are chosen of many so that no domain and no class fills the list, always the same ones."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from cosup.analysis.variety import varied


def chosen(score: object, domain: object, kind: object, most: int, seed: int = 0) -> list[int]:
    found = varied(
        np.asarray(score, np.float32),
        np.asarray(domain, np.int64),
        np.asarray(kind, np.int64),
        most,
        np.random.default_rng(seed),
    )
    return found.tolist()


def test_by_hand() -> None:
    """First the highest; then another domain; then another class of a domain."""
    score = [0.99, 0.98, 0.97, 0.96, 0.6]
    domain, kind = [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]
    assert chosen(score, domain, kind, 5) == [0, 3, 4, 1, 2]


def test_a_domain_that_fills_the_top_does_not_fill_the_list() -> None:
    score = np.concatenate([np.full(500, 1.0), np.full(30, 0.7)])
    domain = np.concatenate([np.zeros(500), np.ones(30)])
    found = chosen(score, domain, np.arange(530) % 10, 12)
    assert Counter(domain[found]) == {0: 6, 1: 6}
    assert max(Counter(place % 10 for place in found).values()) <= 2


def test_low_scores_come_last() -> None:
    score, domain = [0.9, 0.8, 0.4, 0.3], [0, 0, 1, 2]
    assert chosen(score, domain, [0] * 4, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [0, 1, 5])
def test_all_of_few_are_chosen_once(size: int) -> None:
    score: NDArray[np.float32] = np.linspace(0, 1, size, dtype=np.float32)
    assert sorted(chosen(score, [-1] * size, [-1] * size, 24)) == list(range(size))


def test_ties_are_drawn_and_stay_the_same() -> None:
    score, nothing = np.ones(300), np.zeros(300)
    first = chosen(score, nothing, nothing, 24)
    assert first == chosen(score, nothing, nothing, 24)
    assert first != chosen(score, nothing, nothing, 24, seed=1)
    assert first != list(range(24)), "not in the order of the names"
    assert len(set(first)) == 24
