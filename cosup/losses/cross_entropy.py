"""Cross-entropy with the assigned annotation: the plain weak-to-strong loss."""

from dataclasses import dataclass

from torch import Tensor

from cosup.losses.base import Loss, Metrics, log_probs, soft_cross_entropy
from cosup.settings.losses import CrossEntropySettings


@dataclass
class CrossEntropy(CrossEntropySettings, Loss):
    """Minimise -sum_c target[c] log p_student[c]."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros."""
        student = log_probs(logits)
        return soft_cross_entropy(student, targets.to(student.dtype)), {}
