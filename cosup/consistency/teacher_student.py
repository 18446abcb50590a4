"""Teacher-student consistency (Liu and Alahi, "Co-Supervised Learning", arXiv 2402.15505).

METHODS.md section 1. Let r be the share of the N annotations whose class is among the top k of the
student. As in the published code, the r N annotations with the least cross-entropy of the student
with that class are kept: as many as the top-k mask keeps, but the most probable ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Filter, Measures, within_top
from cosup.evidence import Assigned, Evidence
from cosup.probabilities import rank_in_group
from cosup.settings.filters import TeacherStudentSettings

SMALLEST = 1e-12


@dataclass
class TeacherStudent(TeacherStudentSettings, Filter):
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
        labels, inside, loss = measures["label"], measures["inside"], measures["loss"]
        if self.mode == "mask":
            return inside
        answered = labels >= 0
        if not self.class_balanced:
            return (rank_in_group(loss, torch.zeros_like(labels)) < inside.sum()) & answered
        sizes = torch.bincount(labels + 1)[1:]
        # The share r of each class, rounded up, so that no class is lost.
        quota = -(-inside.sum() * sizes // answered.sum().clamp_min(1))
        return answered & (rank_in_group(loss, labels) < _of(quota, labels))


def _of(per_class: Tensor, labels: Tensor) -> Tensor:
    """Return the number of the class of each label; 0 for the label -1."""
    return torch.cat([per_class.new_zeros(1), per_class])[labels + 1]
