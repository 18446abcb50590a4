"""The adaptive confidence loss (AdaptConf).

Guo et al., "Vision Superalignment: Weak-to-Strong Generalization for Vision Foundation Models",
arXiv 2402.03749; METHODS.md section 2.

    L = (1 - a) tau^2 KL(teacher || student) + a CE(z, s)
    a = e^{CE(z,s)/T} / (e^{CE(z,s)/T} + e^{CE(z,t)/T})

with s the student's class and t the teacher's. Equivalently a = 1 / (1 + (p[s]/p[t])^{1/T}), so
a <= 1/2, and a = 1/2 where the two agree. There the loss sharpens the student; where the student
disagrees with high confidence, a goes to 0 and the loss follows the teacher.

In the published code for few-shot learning and noisy labels, a is multiplied by a factor that rises
from 0 to 1 over the first quarter of the epochs, once per epoch; `ramp` does it in every step.

Other weights (`weight`) are for ablations. As T goes to 0, a goes to 1/2 where the two agree and to
0 elsewhere, which is `half_where_agree`.
"""

from dataclasses import dataclass

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
    ramped,
    soft_cross_entropy,
    tempered,
)
from cosup.settings.losses import AdaptiveConfidenceSettings


@dataclass
class AdaptiveConfidence(AdaptiveConfidenceSettings, Loss):
    """Follow the teacher or the student's own class, weighted per sample by their confidence."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        Metrics: `adaptive_weight`, the mean weight of the student's own class; `agreement`, the
        share of samples with the same class from teacher and student. No gradient flows through
        the weight. Raises `UserError` if `weight` is `best_constant`, which a run has to choose.
        """
        student = log_probs(logits)
        targets = targets.to(student.dtype)
        own, taught = student.argmax(-1), targets.argmax(-1)
        own_loss = label_cross_entropy(student, own)
        taught_loss = label_cross_entropy(student.detach(), taught)
        weight = self._weight(own == taught, own_loss.detach() - taught_loss)
        weight = ramped(progress, self.ramp) * weight
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
        """Return the weight [..., B] of the student's own class.

        agree: [..., B] bool. difference: CE(z, s) - CE(z, t).
        """
        if self.weight == "best_constant":
            raise UserError(
                "is chosen by a run on its validation split; elsewhere give 'constant' and a "
                "constant",
                key="weight",
                value=self.weight,
            )
        if self.weight in ("half", "constant"):
            return torch.full_like(difference, 0.5 if self.weight == "half" else self.constant)
        if self.weight == "half_where_agree":
            return 0.5 * agree.to(difference.dtype)
        temperature = 1.0 if self.form == "paper" else self.temperature
        # The ratio of the exponentials, without their overflow.
        ratio = difference / temperature
        return (-ratio if self.weight == "complement" else ratio).sigmoid()
