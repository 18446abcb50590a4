"""Unanimity: keep what the teachers agree on, as RAVEN (arXiv 2510.21332) does in its first epochs.

For teachers that answer on the same classes; disjoint class specialists never agree.
"""

from dataclasses import dataclass

from torch import Tensor

from cosup.consistency.base import Filter, Measures, assigned_labels, check_setting
from cosup.evidence import Evidence

ROUNDING = 1e-6


@dataclass
class Unanimity(Filter):
    """Keep annotations whose class is also that of the level's other answering teachers."""

    share: float = 1.0
    """Needed share of the answering teachers whose most probable class is the assigned one."""

    def __post_init__(self) -> None:
        check_setting("share", self.share, 0 < self.share <= 1, "above 0 and at most 1")

    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """`agreeing`: the share of answering teachers that name the assigned class."""
        labels, _ = assigned_labels(evidence, weights)
        answers = evidence.annotations.sum(2) > 0
        votes = ((evidence.annotations.argmax(2) == labels[:, None]) & answers).sum(1)
        return {"agreeing": votes / answers.sum(1).clamp_min(1)}

    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool; never where nobody names the class (all abstain)."""
        agreeing = measures["agreeing"]
        return (agreeing > 0) & (agreeing >= self.share - ROUNDING)
