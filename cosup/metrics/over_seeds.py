"""Means of numbers over seeds, and intervals that cover the chance of seeds and test samples."""

import math
import statistics
from collections.abc import Callable, Sequence
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


def over_seeds(
    values: Sequence[float], draws: npt.NDArray[np.float64], same_samples: bool
) -> OverSeeds:
    """Return the mean of a number measured for S >= 2 seeds, with the chance of seeds and samples.

    values: [S] the number for each seed. draws: [D] its mean over the seeds in bootstrap draws of
    their test samples. same_samples: whether all seeds have the same test samples, which are then
    drawn for all at once, or each its own.

    Half the width of the interval is made of that of Student's t over seeds and that of the normal
    interval over samples, 1.96 deviations of the draws. With the same samples it is the root of
    their squares' sum, which covers at least 95 %: a part of the chance of samples is in both. With
    samples of their own the values hold all the chance, and it is the larger one: a few seeds may
    agree by accident. The p-value is 1 minus the level at which such an interval ends at 0. A
    bootstrap over seeds would be too narrow: of S seeds its variance is (S - 1) / S of the right
    one, and it has no t.
    """
    found = spread(values)
    mean, deviation = float(found["mean"]), float(found["deviation"])
    error, sample_error = deviation / math.sqrt(len(values)), float(np.std(draws))

    def half_width(tail: float) -> float:
        from scipy.special import ndtri, stdtrit  # only where it is used, as in `t_975`

        by_seed = abs(float(stdtrit(len(values) - 1, tail))) * error
        by_sample = abs(float(ndtri(tail))) * sample_error
        return math.hypot(by_seed, by_sample) if same_samples else max(by_seed, by_sample)

    half = half_width(0.025)
    p_value = 2 * _tail_of(abs(mean), half_width)
    return OverSeeds(mean, deviation, mean - half, mean + half, p_value)


def _tail_of(distance: float, half_width: Callable[[float], float]) -> float:
    """Return the tail in 0 .. 0.5 at which half the width, which falls with it, is a distance."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if half_width(middle) >= distance else (low, middle)
    return high
