"""Teacher-student consistency: Liu and Alahi, "Co-Supervised Learning", arXiv 2402.15505;
METHODS.md section 1.

Of N annotations, r N have their class among the student's top k. As in the published code, the
r N annotations with the least cross-entropy of the student to that class are kept: the same
number as the top-k mask keeps, but the most likely ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.consistency.base import Filter, Measures, assigned_labels, within_top
from cosup.evidence import Evidence
from cosup.settings.filters import TeacherStudentSettings

SMALLEST = 1e-12


@dataclass
class TeacherStudent(TeacherStudentSettings, Filter):
    """Keep annotations that the student finds likely."""

    def measure(self, evidence: Evidence, weights: Tensor) -> Measures:
        """`label` (-1: abstained), `inside` (label in the student's top k), `loss` (nats)."""
        labels, _ = assigned_labels(evidence, weights)
        own = evidence.student_probs.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        loss = -own.clamp_min(SMALLEST).log()
        return {
            "label": labels,
            "inside": within_top(evidence.student_probs, labels, self.k),
            "loss": loss.masked_fill(labels < 0, torch.inf),
        }

    def decide(self, measures: Measures) -> Tensor:
        """keep [N] bool; of equal losses, those of earlier samples are kept."""
        labels, inside, loss = measures["label"], measures["inside"], measures["loss"]
        if self.mode == "mask":
            return inside
        answered = labels >= 0
        if not self.class_balanced:
            return (_rank(loss, torch.zeros_like(labels)) < inside.sum()) & answered
        sizes = torch.bincount(labels + 1)[1:]
        # The share r of each class, rounded up in integers: no class is lost to rounding.
        quota = -(-inside.sum() * sizes // answered.sum().clamp_min(1))
        return answered & (_rank(loss, labels) < _of(quota, labels))


def _of(per_class: Tensor, labels: Tensor) -> Tensor:
    """The class's number for each label; 0 for the label -1."""
    return torch.cat([per_class.new_zeros(1), per_class])[labels + 1]


def _rank(loss: Tensor, groups: Tensor) -> Tensor:
    """Each sample's place [N] by loss within its group, from 0; ties in the samples' order."""
    order = loss.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    sizes = torch.bincount(groups + 1)
    starts = (sizes.cumsum(0) - sizes)[groups[order] + 1]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts
    return rank
