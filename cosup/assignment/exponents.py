"""The exponent of a source's probabilities that makes the answers of the others most likely.

METHODS.md section 8. It is below 1 where a source is surer than right, above 1 where it is less
sure.
"""

import math
from collections.abc import Callable

from torch import Tensor

LOWEST, HIGHEST = 1 / 16, 8.0
GRID = 15
GOLDEN = (math.sqrt(5) - 1) / 2
FEWEST = 20.0
"""Fewest informative samples (by weight) from which an exponent is fitted."""


def fit_exponent(
    log_probs: Tensor, log_likelihood: Tensor, weights: Tensor, offset: Tensor | None = None
) -> float:
    """Return b that maximises sum_x w(x) log sum_c softmax(b log p(.|x) + offset(x))_c L_x(c).

    log_probs: [n, C], log p. log_likelihood: [n, C], log L of the other sources, up to a constant
    per sample; samples of which they say nothing (L is constant) do not count. weights: [n].
    offset: [n, C], of other probabilities by which these are multiplied. Returns 1 if fewer than
    `FEWEST` samples count.
    """
    told = log_likelihood.amax(1) - log_likelihood.amin(1) > 1e-4
    rows = (told & (weights > 0)).nonzero()[:, 0]
    weights = weights[rows].double()
    if float(weights.sum()) < FEWEST:
        return 1.0
    log_probs = log_probs[rows]
    added = 0.0 if offset is None else offset[rows]
    likelihood = log_likelihood[rows].softmax(1)

    def value(log_exponent: float) -> float:
        probs = (log_probs * math.exp(log_exponent) + added).softmax(1)
        mean = (probs * likelihood).sum(1).double().clamp_min(1e-30).log()
        return float((mean * weights).sum())

    return math.exp(_maximum(value, math.log(LOWEST), math.log(HIGHEST)))


def _maximum(value: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function is largest: the best point of a grid, then golden sections."""
    step = (high - low) / (GRID - 1)
    points = [low + number * step for number in range(GRID)]
    values = [value(point) for point in points]
    best = points[max(range(GRID), key=values.__getitem__)]
    low, high = max(low, best - step), min(high, best + step)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    while high - low > 1e-3:
        if at_left >= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = value(right)
    return (low + high) / 2
