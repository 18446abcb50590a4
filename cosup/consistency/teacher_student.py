"""Teacher-student consistency (Liu and Alahi, "Co-Supervised Learning", arXiv 2402.15505).

METHODS.md section 1. Let r be the share of the N annotations whose class is among the top k of the
student. As in the published code, the r N annotations with the least cross-entropy of the student
with that class are kept: as many as the top-k mask keeps, but the most probable ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Measures, within_top
from cosup.consistency.ranking import Ranked, RankingFilter
from cosup.evidence import Assigned, Evidence
from cosup.settings.filters import TeacherStudentSettings

SMALLEST = 1e-12


@dataclass
class TeacherStudent(TeacherStudentSettings, RankingFilter):
    """Keep annotations that are probable under the student."""

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return `label` (-1: abstained), `inside` (in the student's top k), `loss` (nats)."""
        labels = assigned.labels
        own = evidence.student_probs.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        loss = -own.clamp_min(SMALLEST).log()
        return {
            "label": labels,
            "inside": within_top(evidence.student_probs, labels, self.k),
            "loss": loss.masked_fill(labels < 0, torch.inf),
        }

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool; of equal losses, earlier samples are kept."""
        return super().decide(measures) if self.needs_all else measures["inside"]

    def ranked(self, measures: Measures) -> Ranked:
        """Rank the annotations by their loss, those of each class alone if `class_balanced`."""
        labels = measures["label"]
        return Ranked(measures["loss"], labels if self.class_balanced else labels.clamp_max(0))

    def totals(self, measures: Measures) -> Tensor:
        """Return how many annotations are inside, and how many of each class there are."""
        sizes = torch.bincount(measures["label"] + 1)[1:]
        return torch.cat([measures["inside"].sum()[None], sizes])

    def quotas(self, totals: Tensor) -> Tensor:
        """Return as many as are inside; of each class the same share, rounded up, so that no class
        is lost."""
        inside, sizes = totals[0], totals[1:]
        if not self.class_balanced:
            return inside[None]
        return -(-inside * sizes // sizes.sum().clamp_min(1))
