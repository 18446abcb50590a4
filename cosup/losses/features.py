"""The contract of losses on feature maps and embeddings.

Such a loss has two parts: cross-entropy of the logits with the annotation (`__call__`), and a part
on features, a module that can have its own weights (such as a regressor from the student's
channels to the teacher's), which are trained with the student and then discarded.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cosup.losses.base import Loss, Metrics, Objective, log_probs, soft_cross_entropy
from cosup.losses.cross_entropy import CrossEntropy
from cosup.protocols import FeatureShapes, NetworkOutput
from cosup.settings.losses import FeatureLossSettings


class Connector(nn.Module):
    """Base of the part on features: compare student and teacher on the same images."""

    @abstractmethod
    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """Return the loss per sample [B], multiplied by its weight; no gradient to the teacher.

        Maps may be in half precision under autocast; the loss is in float32 at least.
        """


@dataclass
class FeatureLoss(FeatureLossSettings, Loss):
    """Base of losses with a part on feature maps or embeddings."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return the part on logits: cross-entropy [..., B] times `annotation`.

        logits, targets: [..., B, C]. The loss is 0 for a target row of zeros.
        """
        student = log_probs(logits)
        losses = soft_cross_entropy(student, targets.to(student.dtype))
        return self.annotation * losses, {}

    @abstractmethod
    def connect(self, student: FeatureShapes, teacher: FeatureShapes) -> Connector:
        """Return the part on features for networks of these shapes.

        Raises `UserError` with both shapes if they cannot be paired.
        """


def without_features(objective: Objective) -> Objective:
    """Return the objective for students without live teachers: its loss without the part on
    features, which is cross-entropy times `annotation` (times 1 if nothing else would be left).
    """
    loss = objective.loss
    if not isinstance(loss, FeatureLoss):
        return objective
    share = loss.annotation or (0.0 if objective.true_label_weight else 1.0)
    weight = objective.annotation_weight * share
    return replace(objective, loss=CrossEntropy(), annotation_weight=weight)


def full(values: Tensor) -> Tensor:
    """Return values in float32 at least: squares overflow or vanish in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
