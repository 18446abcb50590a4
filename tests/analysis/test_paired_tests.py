"""McNemar's test equals exact integers; intervals of many columns equal those of one."""

from fractions import Fraction

import numpy as np
import pytest

from cosup.metrics import mcnemar, paired_comparison, shares


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (3, 3), (3, 4), (0, 12), (10, 30), (500, 700), (10_000, 10_200)]
)
def test_mcnemar(first: int, second: int) -> None:
    total = first + second
    # Both tails of a fair coin, in exact integers.
    ways, tail = 1, 1
    for heads in range(min(first, second)):
        ways = ways * (total - heads) // (heads + 1)
        tail += ways
    expected = float(min(Fraction(1), Fraction(2 * tail, 2**total)))
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-6)
    assert mcnemar(second, first) == mcnemar(first, second)


@pytest.mark.parametrize("grouped", [True, False])
def test_many_columns_equal_single_columns(grouped: bool) -> None:
    rng = np.random.default_rng(0)
    columns = rng.random((300, 4)) < [0.9, 0.7, 0.9, 0.1]
    groups = np.repeat(np.arange(100), 3) if grouped else None
    found = shares(columns, groups, samples=500, seed=3)
    np.testing.assert_allclose(found.mean, columns.mean(0))
    for place, column in enumerate(columns.T):
        alone = paired_comparison(column, np.zeros(300), groups, samples=500, seed=3)
        np.testing.assert_allclose([found.low[place], found.high[place]], [alone.low, alone.high])
        pair = paired_comparison(columns[:, 0], column, groups, samples=500, seed=3)
        gained = [found.gain[place], found.gain_low[place], found.gain_high[place]]
        np.testing.assert_allclose(gained, [pair.difference, pair.low, pair.high], atol=1e-12)
