"""Given labels: keep samples whose label, which may be wrong, is what their teacher says too.

The classification filter of Brodley and Friedl, "Identifying Mislabeled Training Data" (Journal of
Artificial Intelligence Research 11, 1999), for settings in which the student learns from labels
beside its teachers; k above 1 is ours.
"""

from dataclasses import dataclass

from torch import Tensor

from cosup.consistency.base import Filter, Measures, check_setting, required, within_top
from cosup.evidence import Evidence, mix


@dataclass
class GivenLabel(Filter):
    """Keep samples whose given label is among the assigned annotation's most probable classes."""

    k: int = 1
    """How many classes count as what the teacher says."""

    def __post_init__(self) -> None:
        check_setting("k", self.k, self.k >= 1, "at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """The labels, as given."""
        return frozenset({"labels"})

    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """`agrees`: 1 where the label is within the annotation's top k, or not known; else 0."""
        labels = required(evidence, "labels", "given_label")
        mixed = mix(evidence.annotations, weights)
        agrees = within_top(mixed, labels, self.k) | (labels < 0)
        return {"agrees": (agrees & (mixed.sum(1) > 0)).float()}

    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool."""
        return measures["agrees"] > 0
