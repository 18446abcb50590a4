"""Adaptive confidence: Guo et al., "Vision Superalignment: Weak-to-Strong Generalization for Vision
Foundation Models", arXiv 2402.03749, the adaptive loss; METHODS.md section 2.

    L = (1 - a) tau^2 KL(teacher || student) + a CE(z, s)
    a = e^{CE(z,s)/T} / (e^{CE(z,s)/T} + e^{CE(z,t)/T})

with s the student's class and t the teacher's. Equivalently a = 1 / (1 + (p[s]/p[t])^{1/T}), so
a <= 1/2, and a = 1/2 where the two agree. There the loss sharpens the student; where the student
confidently disagrees, a goes to 0 and the loss follows the teacher.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from cosup.errors import UserError
from cosup.losses.base import Loss, Metrics
from cosup.losses.terms import (
    answered,
    kl_divergence,
    label_cross_entropy,
    log_probs,
    soft_cross_entropy,
    tempered,
)


@dataclass
class AdaptiveConfidence(Loss):
    """Follow the teacher or the student's own class, weighted per sample by their confidences."""

    temperature: float = 0.5
    """T of the adaptive weight: small ones make it fall quickly where the two disagree."""
    tau: float = 1.0
    """Softens teacher and student in the teacher's term (form `code` alone)."""
    form: Literal["code", "paper"] = "code"
    """`code`: as published in code. `paper`: as printed, CE for the teacher's KL, and T = 1."""

    def __post_init__(self) -> None:
        for name in ("temperature", "tau"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}: {getattr(self, name)}: must be greater than 0")
        if self.form not in ("code", "paper"):
            raise UserError(f"form: {self.form!r}: must be 'code' or 'paper'")

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        Metrics: `adaptive_weight`, the mean a; `agreement`, the share of samples whose teacher and
        student name the same class. No gradient flows through a.
        """
        student = log_probs(logits)
        targets = targets.to(student.dtype)
        own, taught = student.argmax(-1), targets.argmax(-1)
        own_loss = label_cross_entropy(student, own)
        weight = self._weight(own_loss.detach(), label_cross_entropy(student.detach(), taught))
        if self.form == "paper":
            teacher_loss = soft_cross_entropy(student, targets)
        else:
            softened = student if self.tau == 1.0 else log_probs(logits, self.tau)
            teacher_loss = self.tau**2 * kl_divergence(softened, tempered(targets, self.tau))
        answers = answered(targets)
        losses = ((1 - weight) * teacher_loss + weight * own_loss) * answers
        count = answers.sum().clamp_min(1)
        return losses, {
            "adaptive_weight": (weight * answers).sum() / count,
            "agreement": ((own == taught) & answers).sum() / count,
        }

    def _weight(self, own_loss: Tensor, taught_loss: Tensor) -> Tensor:
        temperature = 1.0 if self.form == "paper" else self.temperature
        # The ratio of exponentials, without computing either.
        return ((own_loss - taught_loss) / temperature).sigmoid()
