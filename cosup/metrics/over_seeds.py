"""Means of numbers over seeds, and intervals that cover the chance of seeds and test samples."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, sample deviation and 95 % interval (Student's t) of the finite values.

    `{"mean", "deviation", "ci95", "values"}`; deviation and interval are None for fewer than two.
    """
    found = [value for value in values if value is not None and math.isfinite(value)]
    result: dict[str, Any] = {"mean": None, "deviation": None, "ci95": None, "values": list(values)}
    if not found:
        return result
    mean = statistics.fmean(found)
    if len(found) < 2:
        return {**result, "mean": mean}
    deviation = statistics.stdev(found)
    half = t_975(len(found) - 1) * deviation / math.sqrt(len(found))
    return {**result, "mean": mean, "deviation": deviation, "ci95": [mean - half, mean + half]}


def t_975(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit  # as in `mcnemar`

    return float(stdtrit(degrees, 0.975))


@dataclass(frozen=True)
class OverSeeds:
    """A mean over seeds, its sample deviation, its 95 % interval, and the p-value of it being 0."""

    mean: float
    deviation: float
    low: float
    high: float
    p_value: float


def over_seeds(values: Sequence[float], draws: npt.NDArray[np.float64] | None = None) -> OverSeeds:
    """Return the mean of a number measured for S >= 2 seeds, with the chance of seeds and samples.

    values: [S] the number for each seed. draws: [D] bootstrap draws of its mean over the seeds,
    where all seeds have the same test samples; None where each seed has test samples of its own,
    the chance of which is in the values already.

    The squared half width of the interval is that of Student's t over seeds plus that of the normal
    interval over samples, (1.96 deviations of the draws)^2. It covers at least 95 %: a part of the
    chance of samples is in both. The p-value is 1 minus the level at which such an interval ends at
    0. A bootstrap over seeds would be too narrow: of S seeds its variance is (S - 1) / S of the
    right one, and it has no t.
    """
    found = spread(values)
    mean, deviation = float(found["mean"]), float(found["deviation"])
    errors = (deviation / math.sqrt(len(values)), 0.0 if draws is None else float(np.std(draws)))
    half = _half_width(0.025, *errors, len(values) - 1)
    p_value = _level_of(abs(mean), *errors, len(values) - 1)
    return OverSeeds(mean, deviation, mean - half, mean + half, p_value)


def _half_width(tail: float, seeds: float, samples: float, degrees: int) -> float:
    """Return half the width of an interval of `over_seeds` with this tail, from both errors."""
    from scipy.special import ndtri, stdtrit  # as in `mcnemar`

    return math.hypot(stdtrit(degrees, tail) * seeds, ndtri(tail) * samples)


def _level_of(distance: float, seeds: float, samples: float, degrees: int) -> float:
    """Return the two-sided p-value at which an interval of `over_seeds` has this half width."""
    low, high = 0.0, 0.5
    for _ in range(60):  # half widths fall as the tail grows: bisect
        middle = (low + high) / 2
        wider = _half_width(middle, seeds, samples, degrees) >= distance
        low, high = (middle, high) if wider else (low, middle)
    return 2 * high
