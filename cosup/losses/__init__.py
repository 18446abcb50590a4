"""Losses of the student's logits against the assigned annotations."""

from cosup.losses.adaptive_confidence import AdaptiveConfidence
from cosup.losses.augmented_confidence import AugmentedConfidence
from cosup.losses.base import Loss, Metrics
from cosup.losses.cross_entropy import CrossEntropy
from cosup.losses.distillation import Distillation

__all__ = [
    "LOSSES",
    "AdaptiveConfidence",
    "AugmentedConfidence",
    "CrossEntropy",
    "Distillation",
    "Loss",
    "Metrics",
]

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "distillation": Distillation,
    "augmented_confidence": AugmentedConfidence,
    "adaptive_confidence": AdaptiveConfidence,
}
