"""The teacher that agrees best with the student.

The port of CSL (Liu and Alahi, arXiv 2402.15505) to domain specialists, where a class doesn't name
the teacher: argmin over teachers of KL(student || teacher), or of the student's cross-entropy to
the teacher's label.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.evidence import Scopes, Truth
from cosup.settings.assigners import AgreementSettings

SMOOTHING = 1e-4
"""Mass spread evenly over all classes before a logarithm is taken. A specialist gives the classes
outside its scope probability 0; its divergence is then large, but at most log(C / SMOOTHING)."""


@dataclass
class Agreement(AgreementSettings, Assigner):
    """The teacher whose annotation is nearest to the student's prediction."""

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """Weights [N, T] (one-hot when hard)."""
        answers = available(annotations)
        if self.measure == "kl":
            scores = -kl_divergences(student_probs, annotations)
            return to_weights(scores / self.temperature, answers, self.hard)
        sureness, labels = annotations.max(2)
        scores = _log(student_probs).gather(1, labels)
        if not self.hard:
            return to_weights(scores / self.temperature, answers, hard=False)
        scores = scores.masked_fill(~answers, -torch.inf)
        nearest = answers & (scores == scores.max(1, keepdim=True).values)
        return to_weights(sureness, nearest, hard=True)


def kl_divergences(student_probs: Tensor, annotations: Tensor) -> Tensor:
    """KL(student || teacher) [N, T] in nats, both smoothed by `SMOOTHING`."""
    student = _smooth(student_probs)
    entropy: Tensor = torch.special.entr(student).sum(1, keepdim=True)
    return -torch.einsum("nc,ntc->nt", student, _log(annotations)) - entropy


def _smooth(probs: Tensor) -> Tensor:
    return probs * (1 - SMOOTHING) + SMOOTHING / probs.shape[-1]


def _log(probs: Tensor) -> Tensor:
    return _smooth(probs).log_()
