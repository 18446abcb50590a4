"""The augmented confidence loss (AugConf).

Burns et al., "Weak-to-Strong Generalization", arXiv 2312.09390, section 4.3.2 and appendix A.4;
METHODS.md section 2.

    L = (1 - a) CE(z, teacher) + a CE(z, s_hat)

with s_hat the student's own class and a rising linearly from 0 over the first part of training.
Guo et al. (arXiv 2402.03749) have tau^2 KL(teacher || student), both softened by tau, in place of
the first cross-entropy, and let a rise over 0.3 of the training.
In the binary original, s_hat is a threshold on the student's probability, set so that the batch has
the class balance of the teacher. For C classes, `balanced` gives each class as many samples as the
teacher does, those with the highest probability under the student, by the deferred acceptance of
Gale and Shapley (1962). For two classes this is the threshold.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
from cosup.probabilities import rank_in_group
from cosup.settings.losses import AugmentedConfidenceSettings


@dataclass
class AugmentedConfidence(AugmentedConfidenceSettings, Loss):
    """Follow the teacher at first, then increasingly the student's own class."""

    def weight(self, progress: float) -> float:
        """Return a at this share of the training."""
        return self.max_weight * ramped(progress, self.ramp)

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        Metrics: `own_weight`, a; `agreement`, the share of samples whose s_hat is the teacher's
        class. Classes are balanced over the B samples of each head separately.
        """
        student = log_probs(logits)
        targets = targets.to(student.dtype)
        detached = student.detach()
        own = balanced_labels(detached, targets) if self.balanced else detached.argmax(-1)
        weight = self.weight(progress)
        answers = answered(targets)
        softened = student if self.tau == 1.0 else log_probs(logits, self.tau)
        distance = kl_divergence if self.form == "kl" else soft_cross_entropy
        teacher_loss = self.tau**2 * distance(softened, tempered(targets, self.tau))
        own_loss = label_cross_entropy(student, own) * answers
        agree = ((own == targets.argmax(-1)) & answers).sum() / answers.sum().clamp_min(1)
        losses = (1 - weight) * teacher_loss + weight * own_loss
        return losses, {"own_weight": losses.new_tensor(weight), "agreement": agree}


def balanced_labels(log_student: Tensor, targets: Tensor) -> Tensor:
    """Return labels [..., B] probable under the student, as many of each class as in the targets.

    log_student, targets: [..., B, C]. Each sample proposes its most probable class. A class with
    more proposals than places rejects the least probable ones, which then propose their next class.
    A sample without an annotation (its target is all zero) takes no place; its label is arbitrary.
    Classes with probability 0, and those of a sample whose probabilities are not numbers, are
    proposed last: every annotated sample needs a place.
    """
    heads, samples, classes = _three(log_student).shape
    answers = answered(targets).reshape(-1)
    head = torch.arange(heads * samples, device=log_student.device) // samples * classes
    taught = (head + targets.argmax(-1).reshape(-1))[answers]
    places = torch.bincount(taught, minlength=heads * classes)
    # A class without places rejects all proposals, which would only cost iterations.
    closed = (places == 0).reshape(heads, 1, classes)
    # -inf is only for classes that have rejected the sample.
    least = torch.finfo(log_student.dtype).min
    scores = _three(log_student).nan_to_num(nan=least, neginf=least)
    scores = scores.masked_fill(closed, -torch.inf).reshape(-1, classes)
    while True:
        best, choice = scores.max(-1)
        proposed = head + choice
        best = best.masked_fill(~answers, -torch.inf)
        rejected = answers & (rank_in_group(-best, proposed) >= places[proposed])
        if not rejected.any():
            return choice.reshape(log_student.shape[:-1])
        scores[rejected, choice[rejected]] = -torch.inf


def _three(values: Tensor) -> Tensor:
    """Reshape [..., B, C] to [H, B, C]."""
    return values.reshape(-1, *values.shape[-2:])
