"""Assignment by agreement with the student.

The rule of Co-Supervised Learning (Liu and Alahi, arXiv 2402.15505) for domain specialists, where
the class does not determine the teacher: argmin over teachers of KL(student || teacher), or of the
student's cross-entropy with the teacher's class. METHODS.md section 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.evidence import Evidence, Scopes
from cosup.settings.assigners import AgreementSettings

SMOOTHING = 1e-4
"""Probability mass spread evenly over all classes before taking logarithms. A specialist gives 0 to
classes outside its scope; its divergence is then large, but at most log(C / SMOOTHING)."""


@dataclass
class Agreement(AgreementSettings, Assigner):
    """Assign each sample to the teacher whose annotation is nearest to the student."""

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T], one-hot if hard."""
        student, annotations = evidence.student_probs, evidence.annotations
        answers = available(annotations)
        if self.measure == "kl":
            scores = -kl_divergences(student, annotations)
            return to_weights(scores / self.temperature, answers, self.hard)
        confidence, labels = annotations.max(2)
        scores = _log(student).gather(1, labels)
        if not self.hard:
            return to_weights(scores / self.temperature, answers, hard=False)
        scores = scores.masked_fill(~answers, -torch.inf)
        nearest = answers & (scores == scores.max(1, keepdim=True).values)
        return to_weights(confidence, nearest, hard=True)


def kl_divergences(student_probs: Tensor, annotations: Tensor) -> Tensor:
    """Return KL(student || teacher) [N, T] in nats, both smoothed by `SMOOTHING`."""
    student = _smooth(student_probs)
    entropy: Tensor = torch.special.entr(student).sum(1, keepdim=True)
    return -torch.einsum("nc,ntc->nt", student, _log(annotations)) - entropy


def _smooth(probs: Tensor) -> Tensor:
    return probs * (1 - SMOOTHING) + SMOOTHING / probs.shape[-1]


def _log(probs: Tensor) -> Tensor:
    return _smooth(probs).log_()
