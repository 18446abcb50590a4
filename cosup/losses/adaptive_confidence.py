"""Adaptive confidence: Guo et al., "Vision Superalignment: Weak-to-Strong Generalization for Vision
Foundation Models", arXiv 2402.03749, the adaptive loss; METHODS.md section 2.

    L = (1 - a) tau^2 KL(teacher || student) + a CE(z, s)
    a = e^{CE(z,s)/T} / (e^{CE(z,s)/T} + e^{CE(z,t)/T})

with s the student's class and t the teacher's. Equivalently a = 1 / (1 + (p[s]/p[t])^{1/T}), so
a <= 1/2, and a = 1/2 where the two agree. There the loss sharpens the student; where the student
confidently disagrees, a goes to 0 and the loss follows the teacher.

Other weights in its place (`weight`) show what the adaptive one is worth. As T goes to 0, a goes to
1/2 where the two agree and to 0 elsewhere: `half_where_agree` needs no T at all.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from cosup.errors import UserError
from cosup.losses.base import (
    Loss,
    Metrics,
    answered,
    kl_divergence,
    label_cross_entropy,
    log_probs,
    soft_cross_entropy,
    tempered,
)
from cosup.losses.settings import check_positive, check_shares

AdaptiveWeight = Literal[
    "adaptive", "complement", "half", "half_where_agree", "constant", "best_constant"
]


@dataclass
class AdaptiveConfidence(Loss):
    """Follow the teacher or the student's own class, weighted per sample by their confidences."""

    temperature: float = 0.5
    """T of the adaptive weight: small ones make it fall quickly where the two disagree."""
    tau: float = 1.0
    """Softens teacher and student in the teacher's term (form `code` alone)."""
    form: Literal["code", "paper"] = "code"
    """`code`: as published in code. `paper`: as printed, CE for the teacher's KL, and T = 1."""

    weight: AdaptiveWeight = "adaptive"
    """a itself (`adaptive`), 1 - a (`complement`), 1/2 (`half`), 1/2 where student and teacher name
    the same class and 0 elsewhere (`half_where_agree`), `constant`, or that one of `constants` with
    which the student does best on the validation split (`best_constant`)."""
    constant: float = 0.25
    """What takes a's place where `weight` is `constant`."""
    constants: tuple[float, ...] = (0.0, 0.1, 0.25, 0.4, 0.5)
    """What `best_constant` chooses from."""

    def __post_init__(self) -> None:
        self.constants = tuple(self.constants)
        check_positive(self, "temperature", "tau")
        check_shares(self, "constant")
        if self.form not in ("code", "paper"):
            raise UserError(f"form: {self.form!r}: must be 'code' or 'paper'")
        if self.weight not in get_args(AdaptiveWeight):
            allowed = ", ".join(map(repr, get_args(AdaptiveWeight)))
            raise UserError(f"weight: {self.weight!r}: must be one of {allowed}")
        if not self.constants or not all(0 <= value <= 1 for value in self.constants):
            raise UserError(
                f"constants: {list(self.constants)}: must be numbers in 0 .. 1, one at least"
            )

    def candidates(self) -> list["AdaptiveConfidence"]:
        """What `best_constant` chooses from: this loss with each of `constants` as its weight."""
        return [replace(self, weight="constant", constant=value) for value in self.constants]

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        Metrics: `adaptive_weight`, the mean weight of the student's own class; `agreement`, the
        share of samples whose teacher and student name the same class. No gradient flows through
        the weight. Raises `UserError` where `weight` is `best_constant`: a loss can't choose.
        """
        student = log_probs(logits)
        targets = targets.to(student.dtype)
        own, taught = student.argmax(-1), targets.argmax(-1)
        own_loss = label_cross_entropy(student, own)
        taught_loss = label_cross_entropy(student.detach(), taught)
        weight = self._weight(own == taught, own_loss.detach() - taught_loss)
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

    def _weight(self, agree: Tensor, difference: Tensor) -> Tensor:
        """The weight of the student's own class [..., B]; difference: CE(z, s) - CE(z, t)."""
        if self.weight == "best_constant":
            raise UserError(
                "weight: 'best_constant': is chosen by a run on its validation split; elsewhere "
                "give 'constant' and a constant"
            )
        if self.weight in ("half", "constant"):
            return torch.full_like(difference, 0.5 if self.weight == "half" else self.constant)
        if self.weight == "half_where_agree":
            return 0.5 * agree.to(difference.dtype)
        temperature = 1.0 if self.form == "paper" else self.temperature
        # The ratio of exponentials, without computing either.
        ratio = difference / temperature
        return (-ratio if self.weight == "complement" else ratio).sigmoid()
