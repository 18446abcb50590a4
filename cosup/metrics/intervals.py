"""Intervals, paired comparisons and tests.

Intervals over samples are percentile intervals of the bootstrap over groups (Efron and Tibshirani,
"An Introduction to the Bootstrap", 1993, chapter 13; Field and Welsh, 2007, for clusters): samples
of the same group, such as rotations of one scan, are drawn together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cosup.metrics.scores import Array, Floats, mean_of
from cosup.seeds import numpy_generator
from cosup.words import percent

LEVEL = 95.0
"""Level of all intervals, in percent."""
Z_975 = 1.959964
"""The standard normal quantile of these intervals."""
MOST_GROUPS = 50_000
"""More groups are drawn in so many blocks, put together at random: the time of a bootstrap is then
bounded. It changes an interval's width by about 0.3 %, which is less than 2,000 draws do."""
DRAWS_AT_ONCE = 2**21
"""Group indices drawn at a time by the bootstrap; bounds its memory."""


@dataclass(frozen=True)
class Comparison:
    """A mean paired difference and its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_comparison(
    first: Array, second: Array, groups: Array | None = None, samples: int = 2000, seed: int = 0
) -> Comparison:
    """Return the mean of first - second over pairs [M], with its bootstrap interval.

    groups: [M] int codes of pairs drawn together; None draws single pairs.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not len(difference):
        return Comparison(*[float("nan")] * 3)
    sums = _group_sums(np.stack([difference, np.ones_like(difference)], axis=1), groups)
    rng = numpy_generator(seed, "paired_comparison")
    draws = np.concatenate(list(_bootstrap(sums, samples, rng)))
    low, high = _percentiles(draws[:, 0] / draws[:, 1])
    return Comparison(mean_of(difference), low, high)


def pgr_interval(
    correct_floor: Array,
    correct_student: Array,
    correct_ceiling: Array,
    groups: Array | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the 95 % interval of the PGR from correctness [M] bool on the same test samples.

    groups: [M] int codes of samples drawn together; None draws single samples. Returns None without
    a gap, or if so many draws (2.5 %) have none that one end of the interval is infinite.
    """
    floor, student, ceiling = (
        np.asarray(part, dtype=np.float64)
        for part in (correct_floor, correct_student, correct_ceiling)
    )
    if not ceiling.sum() > floor.sum():
        return None
    sums = _group_sums(np.stack([student - floor, ceiling - floor], axis=1), groups)
    rng = numpy_generator(seed, "pgr_interval")
    draws = np.concatenate(list(_bootstrap(sums, samples, rng)))
    gap = draws[:, 1] > 0
    if 1 - gap.mean() >= (100 - LEVEL) / 200:
        return None
    return _percentiles(draws[gap, 0] / draws[gap, 1])


def no_gap(
    correct_floor: Array, correct_ceiling: Array, groups: Array | None = None, seed: int = 0
) -> str | None:
    """Return why floor and ceiling give no PGR, as a clause, or None if they give one.

    PGR is given if the ceiling is above the floor by more than noise: in more than 97.5 % of the
    draws of `pgr_interval`. A ratio to a smaller gap has no interval. Arguments as there.
    """
    floor, ceiling = (np.asarray(part, dtype=bool) for part in (correct_floor, correct_ceiling))
    low, high = percent(mean_of(floor)), percent(mean_of(ceiling))
    if not ceiling.sum() > floor.sum():
        return f"the ceiling ({high}) is not above the floor ({low})"
    if pgr_interval(floor, floor, ceiling, groups, seed=seed) is None:
        return f"the gap between the floor ({low}) and the ceiling ({high}) is within noise"
    return None


@dataclass(frozen=True)
class Shares:
    """Means of K columns over the same samples and their differences, with 95 % intervals.

    mean, low, high: [K]. gain, gain_low, gain_high: [K], the first column minus each one.
    """

    mean: Floats
    low: Floats
    high: Floats
    gain: Floats
    gain_low: Floats
    gain_high: Floats


def shares(
    columns: Array,
    groups: Array | None = None,
    samples: int = 2000,
    seed: int = 0,
    counted: Array | None = None,
    few: bool = False,
) -> Shares:
    """Return means of columns [M, K] of 0 and 1, with intervals from the same draws of groups.

    counted: [M, K] bool, the samples of which each column says something (None: all). A mean is
    over these; a gain compares the first column with another on the samples that count for both.
    Means of no sample are nan. The draws, and so the intervals, are those of `paired_comparison`
    with the same seed. few: so few samples that the intervals of means are Wilson's instead.
    """
    values = np.asarray(columns, dtype=np.float64)
    count = np.ones(values.shape) if counted is None else np.asarray(counted, dtype=np.float64)
    both = count * count[:, :1]
    sums = np.concatenate(
        [
            _group_sums(values * count, groups),
            _group_sums(count, groups),
            _group_sums((values[:, :1] - values) * both, groups),
            _group_sums(both, groups),
        ],
        axis=1,
    )
    rng = numpy_generator(seed, "paired_comparison")
    draws = np.concatenate(list(_bootstrap(sums, samples, rng)))
    mean, gain = _ratios(sums.sum(0, keepdims=True))
    means, gains = _ratios(draws)
    low, high = _ranges(means)
    if few:
        pairs = zip((values * count).sum(0).tolist(), count.sum(0).tolist(), strict=True)
        low, high = np.array([wilson(*pair) for pair in pairs]).T
    return Shares(mean[0], low, high, gain[0], *_ranges(gains))


def ratio_intervals(
    parts: Array, wholes: Array, samples: int = 2000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Return the 95 % intervals [K], [K] of the ratios of the sums of parts and wholes [G, K].

    A bootstrap over the G rows; nan where no row has a whole above 0.
    """
    sums = np.concatenate([np.asarray(parts), np.asarray(wholes)], axis=1).astype(np.float64)
    rng = numpy_generator(seed, "ratio_intervals")
    part, whole = np.split(np.concatenate(list(_bootstrap(sums, samples, rng))), 2, axis=1)
    ratios = np.full_like(part, np.nan)
    np.divide(part, whole, out=ratios, where=whole > 0)
    return _ranges(ratios)


def resampled_means(
    columns: Array, groups: Array | None = None, samples: int = 2000, seed: int = 0
) -> Floats:
    """Return [samples, K] means of columns [M, K] in each draw of groups [M] (None: of rows).

    The draws are those of `paired_comparison` with the same seed.
    """
    values = np.asarray(columns, dtype=np.float64)
    ones = np.ones((len(values), 1))
    sums = _group_sums(np.concatenate([values, ones], axis=1), groups)
    rng = numpy_generator(seed, "paired_comparison")
    draws = np.concatenate(list(_bootstrap(sums, samples, rng)))
    means: Floats = draws[:, :-1] / draws[:, -1:]
    return means


def lower_bound(right: float, answered: float) -> float:
    """Return the lower end of `wilson`: further below the share, the fewer samples there are."""
    return wilson(right, answered)[0]


def wilson(right: float, answered: float) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927); (0, 1) of no sample.

    right, answered: numbers of samples. It holds for few samples too, where a bootstrap is too
    narrow.
    """
    if answered <= 0:
        return 0.0, 1.0
    share, z = right / answered, Z_975
    half = z * math.sqrt(share * (1 - share) / answered + (z / (2 * answered)) ** 2)
    middle, scale = share + z**2 / (2 * answered), 1 + z**2 / answered
    return (middle - half) / scale, (middle + half) / scale


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947); 1 without any such sample.

    first_only, second_only: number of samples that only one of two predictors gets right.
    """
    from scipy.special import bdtr  # only where it is used: the rounds import this module

    count, fewer = first_only + second_only, min(first_only, second_only)
    return float(min(1.0, 2 * bdtr(fewer, count, 0.5))) if 2 * fewer < count else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (1979), in order."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for done, place in enumerate(order):
        largest = max(largest, (len(p_values) - done) * p_values[place])
        corrected[place] = min(1.0, largest)
    return corrected


def _ratios(sums: Floats) -> tuple[Floats, Floats]:
    """Return the means and gains of `shares` from sums [*, 4 K]; nan without samples."""
    right, count, more, both = np.split(sums, 4, axis=1)
    means, gains = np.full_like(right, np.nan), np.full_like(right, np.nan)
    np.divide(right, count, out=means, where=count > 0)
    np.divide(more, both, out=gains, where=both > 0)
    return means, gains


def _ranges(draws: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % interval of each column, from the draws in which it has a value."""
    tail = (100 - LEVEL) / 2
    low, high = np.full((2, draws.shape[1]), np.nan)
    for place, column in enumerate(draws.T):
        known = column[~np.isnan(column)]
        if len(known):
            low[place], high[place] = np.percentile(known, [tail, 100 - tail])
    return low, high


def _group_sums(values: Floats, groups: Array | None) -> Floats:
    """Return sums [G, K] of values [M, K] over groups; over blocks of them, if they are many."""
    if groups is None and len(values) <= MOST_GROUPS:
        return values
    _, codes = np.unique(
        np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True
    )
    count = int(codes.max(initial=-1)) + 1
    if count > MOST_GROUPS:
        codes = (numpy_generator(0, "blocks of groups").permutation(count) % MOST_GROUPS)[codes]
    sums = np.stack([np.bincount(codes, weights=column) for column in values.T], axis=1)
    return sums.astype(np.float64)  # of no sample they are whole numbers


def _bootstrap(sums: Floats, samples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield sums [*, K] over G groups drawn with replacement, `samples` times in all."""
    size = len(sums)
    if not size:  # nothing to draw from: sums of nothing
        yield np.zeros((samples, sums.shape[1]))
        return
    step = max(1, DRAWS_AT_ONCE // size)
    for start in range(0, samples, step):
        drawn = rng.integers(size, size=(min(step, samples - start), size))
        times = np.stack([np.bincount(row, minlength=size) for row in drawn])
        yield times.astype(np.float64) @ sums


def _percentiles(values: Floats) -> tuple[float, float]:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
