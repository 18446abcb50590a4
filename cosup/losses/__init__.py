"""Losses of the student's logits, and of what it sees, against the assigned annotations."""

from cosup.losses.adaptive_confidence import AdaptiveConfidence
from cosup.losses.augmented_confidence import AugmentedConfidence
from cosup.losses.base import Loss, Metrics, Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.losses.distillation import Distillation
from cosup.losses.dkd import DecoupledDistillation
from cosup.losses.features import Connector, FeatureLoss, Seen, Shapes
from cosup.losses.fitnet import FitNet
from cosup.losses.reviewkd import KnowledgeReview
from cosup.losses.rkd import RelationalDistillation
from cosup.settings.losses import LOSSES

__all__ = [
    "LOSSES",
    "AdaptiveConfidence",
    "AugmentedConfidence",
    "Connector",
    "CrossEntropy",
    "DecoupledDistillation",
    "Distillation",
    "FeatureLoss",
    "FitNet",
    "KnowledgeReview",
    "Loss",
    "Metrics",
    "Objective",
    "RelationalDistillation",
    "Seen",
    "Shapes",
]
