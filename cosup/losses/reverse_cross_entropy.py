"""Reverse cross-entropy: the teacher's surprise at the student's answers.

Yao et al., arXiv 2502.11107; METHODS.md section 5.

    L = -sum_c p_student(c) log max(p_teacher(c), floor)

Cross-entropy makes the student copy the doubt of its teacher. This loss seeks a mode: it is least
where the student gives one class that the teacher finds most probable. A class that the student has
given up has no gradient, so the training starts with plain cross-entropy, as that of `product`.
"""

from dataclasses import dataclass

from torch import Tensor

from cosup.losses.base import Loss, Metrics, answered, log_probs, soft_cross_entropy
from cosup.settings.losses import ReverseCrossEntropySettings


@dataclass
class ReverseCrossEntropy(ReverseCrossEntropySettings, Loss):
    """Minimise -sum_c p_student[c] log max(target[c], floor)."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros."""
        student = log_probs(logits)
        targets = targets.to(student.dtype)
        if progress < self.warmup:
            return soft_cross_entropy(student, targets), {}
        surprise = -targets.clamp_min(self.floor).log()
        return (student.exp() * surprise).sum(-1) * answered(targets), {}
