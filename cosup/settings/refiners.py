"""Settings of refinement, and its registry."""

from dataclasses import dataclass
from typing import Literal

from cosup.settings import Entry, Settings, between, one_of

MOST_ROUNDS = 100
"""Refinement has settled after a few rounds; each keeps a student and a table of decisions."""
MOST_NEIGHBOURS = 1000
MOST_REFERENCES = 10_000_000
"""Features of so many samples are searched for every sample."""
MOST_STUDENT = 100.0
"""A greater exponent leaves the student's class alone."""


@dataclass
class ProductRefinementSettings(Settings):
    """Replace each assigned annotation by its normalised product with the student's cross-fitted
    probabilities, and train the student on it, in rounds of their own after the others."""

    rounds: int = 3
    """Rounds that refine, after those of the levels, on the finest level."""
    weight: float = 1.0
    """Exponent of the student's probabilities; 0 leaves the annotations as they are."""
    floor: float = 1e-6
    """Least probability of a class in the annotation: a student that is surer than this of a class
    outside the teacher's scope overrules it."""
    targets: Literal["hard", "soft"] = "hard"
    """Learn the most probable class of the refined annotation, or its probabilities."""
    neighbours: int = 0
    """Average the refined annotation over so many nearest neighbours in the student's features (by
    cosine), and the sample itself; 0 does not."""
    references: int = 50_000
    """Neighbours are searched among so many samples at most, drawn by the seed: time grows with
    samples times references."""

    def __post_init__(self) -> None:
        between(1, MOST_ROUNDS, rounds=self.rounds)
        between(0, MOST_STUDENT, weight=self.weight)
        between(1e-30, 0.5, floor=self.floor)
        one_of(("hard", "soft"), targets=self.targets)
        between(0, MOST_NEIGHBOURS, neighbours=self.neighbours)
        between(1, MOST_REFERENCES, references=self.references)

    @property
    def needs(self) -> frozenset[str]:
        """What it reads beside probabilities: "features", for neighbours."""
        return frozenset({"features"}) if self.neighbours else frozenset()


REFINERS: dict[str, Entry] = {
    "product": Entry(ProductRefinementSettings, "cosup.refinement:ProductRefinement"),
}
