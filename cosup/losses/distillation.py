"""Knowledge distillation: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
arXiv 1503.02531, section 2.
"""

from dataclasses import dataclass

from torch import Tensor

from cosup.errors import UserError
from cosup.losses.base import Loss, Metrics
from cosup.losses.terms import kl_divergence, log_probs, tempered


@dataclass
class Distillation(Loss):
    """tau^2 KL(target^(1/tau) || student softened by tau)."""

    tau: float = 2.0
    """Softens teacher and student; above 1, a teacher's lesser classes count for more."""

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise UserError(f"tau: {self.tau}: must be greater than 0")

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        tau^2 keeps the size of the gradient independent of tau, as in the paper.
        """
        student = log_probs(logits, self.tau)
        softened = tempered(targets.to(student.dtype), self.tau)
        return self.tau**2 * kl_divergence(student, softened), {}
