"""The nearest of samples to others by cosine, found part by part.

However samples are divided, the same are found: cosines are computed in float64 and rounded to a
grid, so that the last bits of a sum, which differ with the sizes of the matrices, do not decide. Of
equal ones the first sample is nearer.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["ROWS", "Nearest", "nearest", "nearest_among"]

GRID = 2.0**24
"""Cosines are multiples of 1 / GRID: of the precision of float32 near 1."""
POSITION_BITS = 32
AT_ONCE = 2**22
"""Cosines, and features of other samples, that are held at a time: 32 MiB of each."""
ROWS = 1024
"""Samples whose nearest are found at a time."""


class Nearest(NamedTuple):
    """The k nearest others of n samples, the nearest first. positions: [n, k] int64. cosines: [n,
    k] float32."""

    positions: Tensor
    cosines: Tensor


def nearest(
    features: Tensor, positions: Tensor, parts: Iterable[tuple[Tensor, Tensor]], k: int
) -> Nearest:
    """Return the nearest samples among those of all parts; none is its own.

    features: [n, D]. positions: [n] int64 of these samples among all, below 2**32. parts: features
    [m, D] and positions [m] of other samples, or of the same. k: at least 1, and at most the number
    of others.
    """
    units = _unit(features)
    best = torch.empty(len(units), 0, dtype=torch.int64)
    step = max(1, AT_ONCE // max(1, *units.shape))
    for others, places in parts:
        for start in range(0, len(others), step):
            part, there = others[start : start + step], places[start : start + step]
            best = _nearer(best, units, positions, part, there, k)
    assert best.shape[1] == k, "k is at most the number of others"
    found = 2**POSITION_BITS - 1 - (best & (2**POSITION_BITS - 1))
    return Nearest(found, ((best >> POSITION_BITS) / GRID).to(torch.float32))


def nearest_among(features: Tensor, k: int) -> Tensor:
    """Return the k nearest others [N, k] int32 of samples [N, D] among themselves."""
    places = torch.arange(len(features))
    # Allocated first: small tensors that outlive large ones would keep the heap from shrinking.
    found = torch.empty(len(features), k, dtype=torch.int32)
    for own in torch.split(places, ROWS):
        found[own] = nearest(features[own], own, [(features, places)], k).positions.to(found)
    return found


def _nearer(
    best: Tensor, units: Tensor, positions: Tensor, others: Tensor, places: Tensor, k: int
) -> Tensor:
    """Return the greatest k keys of each of n samples, of those so far [n, m] and of others."""
    keys = _keys(units @ _unit(others).T, places)
    keys.masked_fill_(positions[:, None] == places, torch.iinfo(torch.int64).min)
    joined = torch.cat([best, keys], dim=1)
    return joined.topk(min(k, joined.shape[1]), dim=1).values


def _unit(features: Tensor) -> Tensor:
    return normalize(features.to(torch.float64), dim=1)


def _keys(cosines: Tensor, positions: Tensor) -> Tensor:
    """Return int64 keys [n, m], all of them different: greater for greater cosines, and of equal
    ones for the first position."""
    steps = cosines.mul_(GRID).round_().to(torch.int64)
    return steps.bitwise_left_shift_(POSITION_BITS).add_(2**POSITION_BITS - 1 - positions)
