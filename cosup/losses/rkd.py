"""Relational knowledge distillation: Park et al., "Relational Knowledge Distillation",
arXiv 1904.05068, section 3.2, equations 4 to 9.

Student and teacher embed a batch of B images, each in its own space; what is compared is how the
images lie to each other, l_H being the Huber loss (smooth L1):

    distance   mean over pairs (i, j) of l_H(|s_j - s_i| / mean distance, same of the teacher)
    angle      mean over triples (i, j, k) of l_H(cos at i between j and k, same of the teacher)

A mean counts all B^2 pairs and B^3 triples, the trivial ones (i = j, which cost nothing) as well,
as in the published code, to which the usual weights (25 and 50) belong. Sample i's loss is the mean
over those that it is the anchor of, so that the mean over samples is the published loss.
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
    """Cross-entropy with the annotation, and the distances and angles between embeddings."""

    def connect(self, student: FeatureShapes, teacher: FeatureShapes) -> Connector:
        """Relations need no common width, but an embedding of each network."""
        if not (student.embedding and teacher.embedding):
            raise UserError(
                f"rkd can't pair the student's embedding (size {student.embedding or 'none'}, maps "
                f"{student.text}) with the teacher's (size {teacher.embedding or 'none'}, "
                f"maps {teacher.text}): both networks need one"
            )
        return Relations(self.weight * self.distance, self.weight * self.angle)


class Relations(Connector):
    """Compares how the images of a batch lie to each other; it has no weights to learn."""

    def __init__(self, distance: float, angle: float) -> None:
        super().__init__()
        self.distance = distance
        self.angle = angle

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """Losses [B]; a batch of one has no relations, and costs 0."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        # Autocast would take the angles' products in half precision.
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
    """From each sample i to each j, e_j - e_i [B, B, D], and their lengths [B, B].

    Subtracted one by one: lengths from inner products lose near neighbours to rounding.
    """
    offsets = embedding[None, :] - embedding[:, None]
    return offsets, torch.linalg.vector_norm(offsets, dim=-1)


def _relative(lengths: Tensor) -> Tensor:
    """Distances in units of the mean distance between different points."""
    apart = lengths > 0
    mean = lengths.sum() / apart.sum().clamp_min(1)
    return lengths / torch.where(mean > 0, mean, 1)


def _cosines(offsets: Tensor, lengths: Tensor) -> Tensor:
    """Of the angles at i between j and k, [B, B, B]; 0 where two of the points coincide."""
    directions = offsets / torch.where(lengths > 0, lengths, 1)[..., None]
    return directions @ directions.mT
