"""Knowledge distillation.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2.
With a head of prototypes it is the logit distillation of CPL (Li et al., "Class Prototype
Learning", arXiv 2511.18396; METHODS.md section 3).
"""

from dataclasses import dataclass

from torch import Tensor

from cosup.losses.base import Loss, Metrics, kl_divergence, log_probs, soft_cross_entropy, tempered
from cosup.settings.losses import DistillationSettings


@dataclass
class Distillation(DistillationSettings, Loss):
    """Minimise tau^2 KL(target^(1/teacher_tau) || student softened by tau)."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        tau^2 makes the scale of the gradient independent of tau, as in the paper.
        """
        student = log_probs(logits, self.tau)
        teacher_tau = self.tau if self.teacher_tau is None else self.teacher_tau
        softened = tempered(targets.to(student.dtype), teacher_tau)
        distance = kl_divergence if self.form == "kl" else soft_cross_entropy
        return self.tau**2 * distance(student, softened), {}
