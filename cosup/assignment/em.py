"""Expectation-maximisation, as `dawid_skene`, `gate` and `fused` share it.

The E-step estimates the true class (or the teacher) of every sample, the M-step the reliability of
the sources. Only sums over samples are kept between the two, in float64, so that samples can be
streamed and the size of batches does not matter beyond rounding.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

EPSILON = 1e-10
"""Probabilities are clamped to this before taking logarithms."""
MOST_PRODUCTS = 2**24
"""Values of an array that is made on the way to another one: 64 MiB in float32. Sources are taken
some at a time where they would need more."""
MOST_RATES = 2**27
"""Values of the confusion matrices of all sources, their counts take 1 GiB: 128 sources of 1,000
classes. Regions whose matrices would take more share one."""


def converge(step: Callable[[], float], iterations: int, tolerance: float) -> int:
    """Call `step` until it gains less than `tolerance`. Return the number of calls."""
    for number in range(1, iterations + 1):
        if step() < tolerance:
            return number
    return iterations


def answered(annotations: Tensor) -> Tensor:
    """Return the most probable class [n, T] int64 of annotations [n, T, C], -1 for abstentions."""
    confidence, labels = annotations.max(2)
    return labels.masked_fill(confidence <= 0, -1)


def mean_vote(votes: Tensor) -> Tensor:
    """Return votes [n, C] scaled to sum to 1; uniform where there is none."""
    total = votes.sum(1, keepdim=True)
    blank = torch.full_like(votes, 1 / votes.shape[1])
    return torch.where(total > 0, votes / total.clamp_min(EPSILON), blank)


def in_parts(sources: int, values: int) -> Iterator[slice]:
    """Yield sources in parts of at most `MOST_PRODUCTS` values, where each has so many."""
    step = max(1, MOST_PRODUCTS // max(values, 1))
    return (slice(start, min(start + step, sources)) for start in range(0, sources, step))


def count_soft(counts: Tensor, annotations: Tensor, expected: Tensor) -> None:
    """Add soft answers: annotations [n, T, C] times what is expected [n, X] to counts [T, C, X].

    Some sources at a time: their products take at most `MOST_PRODUCTS` values.
    """
    for some in in_parts(len(counts), counts.shape[1] * counts.shape[2]):
        product = annotations[:, some].flatten(1).T @ expected
        counts[some].view(-1, expected.shape[1]).add_(product)


def count_hard(counts: Tensor, labels: Tensor, expected: Tensor) -> None:
    """Add answers labels [n, T] (-1: none) to counts [T, C, X], each with what is expected [n, X].

    This takes N T X additions, where a product with one-hot rows would take N T C X.
    """
    expected = expected.to(counts.dtype)
    for into, column in zip(counts, labels.T, strict=True):
        said = column >= 0
        into.index_add_(0, column[said], expected[said])


def rates_of(counts: Tensor) -> Tensor:
    """Return P(a source answers j | c) from counts [T, j, ..., c]; uniform where c has none."""
    total = counts.sum(1, keepdim=True)
    even = torch.full_like(total, 1 / counts.shape[1])
    return torch.where(total > 0, counts / total, even)


def log_rates_of(rates: Tensor) -> Tensor:
    """Return the logarithm of rates, clamped to `EPSILON`."""
    return rates.clamp_min(EPSILON).log()


def look_up(log_rates: Tensor, labels: Tensor) -> Tensor:
    """Return the rows [n, X] of one source's log-rates [C, X] for its answers [n]; 0 where it
    abstains (-1)."""
    return log_rates[labels.clamp_min(0)].masked_fill_((labels < 0)[:, None], 0.0)


def separate_regions(sources: int, regions: int, classes: int) -> int:
    """Return for how many regions confusion matrices are estimated: for each, or for all at once.

    So many matrices would be drawn to the one of all regions by far more than they count.
    """
    return regions if sources * regions * classes**2 <= MOST_RATES else 1


def by_region(regions: Tensor, posterior: Tensor, separate: int) -> Tensor:
    """Return [n, R, C] float64: the probability of each region times that of each class; [n, 1, C]
    where regions are not separate."""
    share = regions if separate > 1 else torch.ones_like(regions[:, :1])
    return share.double()[:, :, None] * posterior.double()[:, None, :]
