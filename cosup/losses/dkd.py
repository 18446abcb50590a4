"""Decoupled knowledge distillation (DKD).

Zhao et al., "Decoupled Knowledge Distillation", arXiv 2203.08679, section 3, equations 5 to 7. For
a target class y, KL(teacher || student) has two parts,

    KL = TCKD + (1 - p[y]) NCKD
    TCKD = KL((p[y], 1 - p[y]) || (q[y], 1 - q[y]))          y against all others
    NCKD = KL(p[c] / (1 - p[y]) || q[c] / (1 - q[y]))        among the others, c != y

(p the teacher, q the student), and the second has little weight where the teacher is confident.
DKD weights each part: L = tau^2 (alpha TCKD + beta NCKD), with p and q softened by tau.

Here NCKD is over the classes with p[c] > 0. A specialist gives 0 to all classes outside its scope,
which is no evidence on the sample; with all classes counted, and beta 8, a student of two class
specialists learns little more than their scopes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cosup.losses.base import (
    Loss,
    Metrics,
    answered,
    kl_divergence,
    label_cross_entropy,
    log_probs,
    ramped,
    tempered,
)
from cosup.settings.losses import DecoupledDistillationSettings


@dataclass
class DecoupledDistillation(DecoupledDistillationSettings, Loss):
    """Follow the teacher on the target class and on the others, each with its own weight."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """As `with_labels`; the target class is the most probable one of the annotation."""
        return self.with_labels(logits, targets, progress, None)

    def with_labels(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C], C at least 2.

        labels: [..., B], or None. The loss is 0 for a target row of zeros, and NCKD is 0 if a
        target is one-hot at y. Metrics: the means of `tckd` and `nckd`, without their weights.
        """
        assert logits.shape[-1] > 1, "one class has no others"
        student = log_probs(logits, self.tau)
        targets = targets.to(student.dtype)
        single = targets.argmax(-1)
        if labels is not None:
            single = torch.where(labels >= 0, labels, single)
        is_single = one_hot(single, logits.shape[-1]).bool()
        tckd = self._single_against_others(student, tempered(targets, self.tau), single, is_single)
        others = _among_themselves(targets.masked_fill(is_single, 0), self.tau)
        named = (others > 0) | ~(others > 0).any(-1, keepdim=True)
        among = student.masked_fill(~named, -torch.inf).log_softmax(-1)
        # -inf times a target of 0 would not be 0.
        nckd = kl_divergence(among.masked_fill(~named, 0), others)
        size = ramped(progress, self.ramp) * self.tau**2
        count = answered(targets).sum().clamp_min(1)
        metrics = {"tckd": tckd.detach().sum() / count, "nckd": nckd.detach().sum() / count}
        return size * (self.alpha * tckd + self.beta * nckd), metrics

    def _single_against_others(
        self, student: Tensor, teacher: Tensor, single: Tensor, is_single: Tensor
    ) -> Tensor:
        """Return TCKD [..., B] of the softened log-student and teacher [..., B, C]."""
        chosen = teacher.gather(-1, single[..., None])[..., 0]
        rest = teacher.masked_fill(is_single, 0).sum(-1)
        log_chosen = -label_cross_entropy(student, single)
        # From the other logits: 1 - q[y] is 0 in float32 where the student is confident.
        log_rest = student.masked_fill(is_single, -torch.inf).logsumexp(-1)
        return kl_divergence(
            torch.stack([log_chosen, log_rest], -1), torch.stack([chosen, rest], -1)
        )


def _among_themselves(others: Tensor, tau: float) -> Tensor:
    """Return the other classes softened and normalised; a row of zeros stays zero.

    Relative to their own largest: next to a confident target class they could all underflow.
    """
    largest = others.amax(-1, keepdim=True)
    softened = tempered(others / torch.where(largest > 0, largest, 1), tau)
    return softened / softened.sum(-1, keepdim=True).clamp_min(1)
