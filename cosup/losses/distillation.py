"""Knowledge distillation: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
arXiv 1503.02531, section 2; and, of a head of prototypes, the logit distillation of CPL (Li et al.,
"Class Prototype Learning", arXiv 2511.18396; METHODS.md section 3).
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from cosup.errors import UserError
from cosup.losses.base import Loss, Metrics, kl_divergence, log_probs, soft_cross_entropy, tempered
from cosup.losses.settings import check_positive


@dataclass
class Distillation(Loss):
    """tau^2 KL(target^(1/teacher_tau) || student softened by tau)."""

    tau: float = 2.0
    """Softens teacher and student; above 1, a teacher's lesser classes count for more."""
    teacher_tau: float | None = None
    """Softens the teacher otherwise than the student; null: alike."""
    form: Literal["kl", "cross_entropy"] = "kl"
    """The divergence from the student to the teacher, or the cross-entropy: more by the teacher's
    entropy, which no training changes, so the two have the same gradient."""

    def __post_init__(self) -> None:
        check_positive(self, "tau", *([] if self.teacher_tau is None else ["teacher_tau"]))
        if self.form not in ("kl", "cross_entropy"):
            raise UserError(f"form: {self.form!r}: must be 'kl' or 'cross_entropy'")

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        tau^2 keeps the size of the gradient independent of tau, as in the paper.
        """
        student = log_probs(logits, self.tau)
        teacher_tau = self.tau if self.teacher_tau is None else self.teacher_tau
        softened = tempered(targets.to(student.dtype), teacher_tau)
        distance = kl_divergence if self.form == "kl" else soft_cross_entropy
        return self.tau**2 * distance(student, softened), {}
