"""All samples in parts, over which an assigner that learns from sums adds them up.

In memory there is one part. Shards are parts that other processes may read: what is computed of a
part is then all that is returned of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cosup.evidence import Batches, Evidence

__all__ = ["Part", "Parts", "Sums", "Whole", "places_drawn", "total_of"]

MOST_PERMUTED = 2**22
"""Samples that are put into a random order to draw some of them: their places take 32 MiB."""

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Part(Protocol[T_co]):
    """A function of the evidence on a part of the samples, and the number of the part from 0.

    It can be sent to other processes, and its result is small.
    """

    def __call__(self, batches: Iterable[Evidence], number: int) -> T_co: ...


class Parts(Protocol):
    """Evidence on all samples, in parts."""

    @property
    def batches(self) -> Batches:
        """Return the evidence on all samples, in order, to be read here."""
        ...

    def each(self, function: Part[T]) -> Iterator[T]:
        """Yield the result of each part, in order."""
        ...


@dataclass(frozen=True)
class Whole:
    """One part: all samples."""

    batches: Batches

    def each(self, function: Part[T]) -> Iterator[T]:
        """Yield the result of all samples."""
        yield function(self.batches, 0)


@dataclass
class Sums:
    """Sums of an E-step over samples.

    counts: float64, expected counts of answers by source and true class. frequency: [C] float64,
    expected counts of the true classes. likelihood: sum of the log-likelihoods, in nats.
    """

    counts: Tensor
    frequency: Tensor
    likelihood: float
    samples: int

    def add(self, other: "Sums") -> None:
        """Add the sums of other samples."""
        self.counts += other.counts
        self.frequency = self.frequency + other.frequency
        self.likelihood += other.likelihood
        self.samples += other.samples


def total_of(sums: Iterable[Sums | None]) -> Sums | None:
    """Return the sum of those of all parts, added in their order; None without samples."""
    total: Sums | None = None
    for found in sums:
        if total is None:
            total = found
        elif found is not None:
            total.add(found)
    return total


def places_drawn(samples: int, most: int, generator: torch.Generator) -> Tensor | None:
    """Return the places [most] int64, ascending, of samples drawn at random; None: all of them.

    Of very many samples only as many random numbers are held as samples are drawn.
    """
    if samples <= most:
        return None
    if samples <= MOST_PERMUTED or most > samples // 4:
        return torch.randperm(samples, generator=generator)[:most].sort().values
    found = torch.zeros(0, dtype=torch.int64)
    while len(found) < most:
        more = torch.randint(samples, (2 * most,), generator=generator)
        found = torch.unique(torch.cat([found, more]))
    # Those with the least places are no random ones: some of all that were drawn.
    chosen = torch.randperm(len(found), generator=generator)[:most]
    return found[chosen].sort().values
