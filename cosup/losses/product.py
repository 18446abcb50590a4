"""The product loss: learn what student and teacher say together.

Burns et al., "Weak-to-strong generalization", arXiv 2312.09390, published code
(`weak_to_strong/loss.py`); METHODS.md section 4.

    L = -sum_c q(c) log p_student(c),  q(c) proportional to p_student(c)^beta p_teacher(c)^alpha

No gradient flows through q. It is cross-entropy with the annotation during the warm-up, where the
student knows nothing yet.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.losses.base import Loss, Metrics, answered, log_probs, soft_cross_entropy
from cosup.settings.losses import ProductSettings


@dataclass
class Product(ProductSettings, Loss):
    """Minimise cross-entropy with the normalised product of student and annotation."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        Metrics: `changed`, the share of annotations whose most probable class is another one in the
        product; 0 during the warm-up.
        """
        student = log_probs(logits)
        targets = targets.to(student.dtype)
        answers = answered(targets)
        followed = targets
        if progress >= self.warmup:
            followed = self._product(student.detach(), targets) * answers[..., None]
        changed = (followed.argmax(-1) != targets.argmax(-1)) & answers
        return soft_cross_entropy(student, followed), {
            "changed": changed.sum() / answers.sum().clamp_min(1)
        }

    def _product(self, student: Tensor, targets: Tensor) -> Tensor:
        """Return q [..., B, C], from logarithms, whose sum does not underflow."""
        impossible = targets <= 0
        taught = targets.clamp_min(torch.finfo(targets.dtype).tiny).log()
        joint = self.beta * student + self.alpha * taught
        # A class that the teacher rules out stays out. An abstention rules out all of them.
        joint = joint.masked_fill(impossible & ~impossible.all(-1, keepdim=True), -torch.inf)
        return joint.softmax(-1)
