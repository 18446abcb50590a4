"""Relational knowledge distillation (RKD).

Park et al., "Relational Knowledge Distillation", arXiv 1904.05068, section 3.2, equations 4 to 9.
Student and teacher embed a batch of B images, each in its own space. The distances and angles
between the embeddings are compared, with l_H the Huber loss (smooth L1):

    distance   mean over pairs (i, j) of l_H(|s_j - s_i| / mean distance, same of the teacher)
    angle      mean over triples (i, j, k) of l_H(cos at i between j and k, same of the teacher)

A mean is over all B^2 pairs and B^3 triples, including trivial ones (i = j, with loss 0), as in the
published code, for which the usual weights are 25 and 50. The loss of sample i is the mean over
those with i as the anchor, so that the mean over samples is the published loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from cosup.errors import UserError
from cosup.losses.features import Connector, FeatureLoss, full
from cosup.protocols import FeatureShapes, NetworkOutput
from cosup.settings.losses import RelationalDistillationSettings


@dataclass
class RelationalDistillation(RelationalDistillationSettings, FeatureLoss):
    """Cross-entropy with the annotation, and distances and angles between embeddings."""

    def connect(self, student: FeatureShapes, teacher: FeatureShapes) -> Connector:
        """Return the comparison of embeddings, which need not have the same size."""
        if not (student.embedding and teacher.embedding):
            raise UserError(
                f"rkd can't pair the student's embedding (size {student.embedding or 'none'}, maps "
                f"{student.text}) with the teacher's (size {teacher.embedding or 'none'}, "
                f"maps {teacher.text}): both networks need one"
            )
        return Relations(self.weight * self.distance, self.weight * self.angle)


class Relations(Connector):
    """Comparison of distances and angles between the embeddings of a batch; without weights."""

    def __init__(self, distance: float, angle: float) -> None:
        super().__init__()
        self.distance = distance
        self.angle = angle

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """Return losses [B]; 0 for a batch of one."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        # Autocast would compute the products of the angles in half precision.
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours = _offsets(full(student.embedding))
            theirs = _offsets(full(teacher.embedding.detach()))
            losses = self.distance * smooth_l1_loss(
                _relative(ours[1]), _relative(theirs[1]), reduction="none"
            ).mean(1)
            if self.angle:
                cosines = smooth_l1_loss(_cosines(*ours), _cosines(*theirs), reduction="none")
                losses = losses + self.angle * cosines.mean((1, 2))
            return losses


def _offsets(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences e_j - e_i [B, B, D] and their lengths [B, B].

    Lengths from inner products would lose near neighbours to rounding.
    """
    offsets = embedding[None, :] - embedding[:, None]
    return offsets, torch.linalg.vector_norm(offsets, dim=-1)


def _relative(lengths: Tensor) -> Tensor:
    """Return distances relative to the mean distance between different points."""
    apart = lengths > 0
    mean = lengths.sum() / apart.sum().clamp_min(1)
    return lengths / torch.where(mean > 0, mean, 1)


def _cosines(offsets: Tensor, lengths: Tensor) -> Tensor:
    """Return the cosines [B, B, B] of the angles at i between j and k; 0 if two points coincide."""
    directions = offsets / torch.where(lengths > 0, lengths, 1)[..., None]
    return directions @ directions.mT
