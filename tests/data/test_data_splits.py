"""Tests of drawing shares of strata and groups."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.data.shares import draw_shares

counts = st.lists(st.integers(1, 40), min_size=1, max_size=8)
raw_shares = st.lists(st.integers(0, 10), min_size=1, max_size=4).filter(any)


def shares_of(raw: list[int], unused: int) -> list[float]:
    total = sum(raw) + unused
    return [part / total for part in raw]


@settings(max_examples=60, deadline=None)
@given(counts=counts, raw=raw_shares, unused=st.integers(0, 5), seed=st.integers(0, 99))
def test_each_stratum_is_divided_within_one_sample(
    counts: list[int], raw: list[int], unused: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    strata = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    shares = shares_of(raw, unused)
    chosen = draw_shares(strata, shares, rng)
    for stratum, count in enumerate(counts):
        got = Counter(chosen[strata == stratum].tolist())
        for place, share in enumerate(shares):
            assert abs(got[place] - share * count) < 1
            if raw[place] == 0:
                assert got[place] == 0
    for place, share in enumerate(shares):
        assert abs((chosen == place).sum() - share * sum(counts)) < len(shares) + 1


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    raw=raw_shares,
    unused=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_a_group_stays_in_one_share(
    sizes: list[int], raw: list[int], unused: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    strata = rng.integers(0, 3, len(groups))
    shares = shares_of(raw, unused)
    chosen = draw_shares(strata, shares, rng, groups)
    for group in range(len(sizes)):
        assert len(set(chosen[groups == group].tolist())) == 1
    for place, share in enumerate(shares):
        got = (chosen == place).sum()
        # Dealing to the share that lacks most misses it by about the largest group at most.
        assert abs(got - share * len(groups)) <= max(sizes) * len(shares) + 1
        if raw[place] == 0:
            assert got == 0


def test_equal_groups_meet_the_shares_exactly() -> None:
    groups = np.tile(np.arange(100), 4)
    strata = np.tile(np.repeat(np.arange(10), 10), 4)
    chosen = draw_shares(strata, [0.3, 0.5, 0.2], np.random.default_rng(0), groups)
    for stratum in range(10):
        assert np.bincount(chosen[strata == stratum]).tolist() == [12, 20, 8]


@pytest.mark.parametrize("grouped", [False, True])
def test_shares_depend_on_the_seed_only(grouped: bool) -> None:
    strata = np.arange(200) % 7
    groups = np.arange(200) // 3 if grouped else None
    draws = [draw_shares(strata, [0.5, 0.3], np.random.default_rng(s), groups) for s in (1, 1, 2)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_small_strata_do_not_starve_a_share() -> None:
    """No class of 3 samples can be divided exactly, but 100 of them together can."""
    strata = np.repeat(np.arange(100), 3)
    chosen = draw_shares(strata, [0.3, 0.5, 0.2], np.random.default_rng(0))
    assert np.bincount(chosen).tolist() == pytest.approx([90, 150, 60], abs=2)
