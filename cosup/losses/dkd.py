"""Decoupled knowledge distillation: Zhao et al., "Decoupled Knowledge Distillation",
arXiv 2203.08679, section 3; equations 5 to 7.

With one class y singled out, KL(teacher || student) falls into two parts,

    KL = TCKD + (1 - p[y]) NCKD
    TCKD = KL((p[y], 1 - p[y]) || (q[y], 1 - q[y]))          y against all others
    NCKD = KL(p[c] / (1 - p[y]) || q[c] / (1 - q[y]))        among the others, c != y

(p the teacher, q the student), of which the second hardly counts where the teacher is sure. DKD
gives each a weight of its own: L = tau^2 (alpha TCKD + beta NCKD), p and q softened by tau.

cosup's NCKD runs over the classes that the annotation names (p[c] > 0). A specialist gives 0 to all
classes outside its scope, which is silence, not knowledge; with every class counted, and beta 8, a
student of two class specialists learns their scopes and little else.
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
    """Follow the teacher on the class and on all others, each with its own weight."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """As `with_labels`, with the annotation's most probable class singled out."""
        return self.with_labels(logits, targets, progress, None)

    def with_labels(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """Losses [..., B] of logits and targets [..., B, C], C at least 2; labels [..., B] or None.

        0 for a target row of zeros. Where a target says nothing of the other classes (it is
        one-hot at y), NCKD is 0. Metrics: the means of `tckd` and `nckd`, without their weights.
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
        """TCKD [..., B] of the softened log-student and teacher [..., B, C]."""
        chosen = teacher.gather(-1, single[..., None])[..., 0]
        rest = teacher.masked_fill(is_single, 0).sum(-1)
        log_chosen = -label_cross_entropy(student, single)
        # From the others' logits: 1 - q[y] is 0 in float32 where the student is sure.
        log_rest = student.masked_fill(is_single, -torch.inf).logsumexp(-1)
        return kl_divergence(
            torch.stack([log_chosen, log_rest], -1), torch.stack([chosen, rest], -1)
        )


def _among_themselves(others: Tensor, tau: float) -> Tensor:
    """Softened and normalised; a row of zeros stays zero.

    Relative to their own largest: beside a sure teacher's class they could all underflow.
    """
    largest = others.amax(-1, keepdim=True)
    softened = tempered(others / torch.where(largest > 0, largest, 1), tau)
    return softened / softened.sum(-1, keepdim=True).clamp_min(1)
