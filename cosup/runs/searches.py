"""The searches for neighbours in a run's rounds, and what they take (`cosup plan`)."""

from collections.abc import Iterator
from dataclasses import dataclass

from cosup.config.rounds import Filters, Refiners, RoundsSection
from cosup.nearest import AT_ONCE
from cosup.settings.filters import NeighboursSettings

__all__ = ["Search", "searches_of"]

COSINE, PRODUCT = 6e-8, 7e-11
"""Seconds of one core to rank a cosine, and for each product of its sum (`bench_neighbours.py`)."""
COSINE_BYTES = 50
"""Bytes per cosine of those that are computed at a time, features of the others included
(measured)."""
FLOAT16, FLOAT32, INT32 = 2, 4, 4


@dataclass(frozen=True)
class Search:
    """A search for the nearest of some samples.

    times: how often it is done. references: samples among which it searches. features: numbers per
    sample. neighbours: of each sample. holds_all: whether the features and neighbours of all
    samples are held, or those of the references alone. smaller: the setting by which it takes less.
    """

    what: str
    times: int
    samples: int
    references: int
    features: int
    neighbours: int
    holds_all: bool
    smaller: str

    @property
    def comparisons(self) -> int:
        """Cosines of one search."""
        return self.samples * self.references

    @property
    def seconds(self) -> float:
        """Seconds of one core for one search."""
        return self.comparisons * (COSINE + PRODUCT * self.features)

    def memory(self, rows: int | None = None) -> int:
        """Return the bytes that it takes at most. rows: of a shard; None: all are in memory."""
        samples = self.samples if rows is None else min(self.samples, rows)
        if self.holds_all:
            # Features as they are measured, and those of labelled samples; neighbours of parts of
            # the samples, and joined.
            held = samples * 2 * (self.features * FLOAT32 + self.neighbours * INT32)
        else:
            held = min(samples, self.references) * self.features * FLOAT16
        return held + AT_ONCE * COSINE_BYTES


def searches_of(
    rounds: RoundsSection, samples: int, features: int, times: int = 1
) -> Iterator[Search]:
    """Yield the searches in rounds of so many samples. times: how often a filter searches."""
    for choice in rounds.consistency:
        settings = Filters.settings(choice)
        if isinstance(settings, NeighboursSettings):
            near = min(settings.k, max(0, samples - 1))
            linear = "filters teacher_student and confidence read each sample once"
            name = f"filter {choice.name}"
            yield Search(name, times, samples, samples, features, near, True, linear)
    if rounds.refine is not None and Refiners.settings(rounds.refine).neighbours:
        refine, again = Refiners.settings(rounds.refine), rounds.refine_rounds
        references = min(samples, refine.references)
        near = min(refine.neighbours, max(0, references - 1))
        less = "fewer rounds.refine.references"
        yield Search("refinement", again, samples, references, features, near, False, less)
