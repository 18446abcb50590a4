"""The surest teacher annotates.

Rests on teachers being surest where they know best, which specialists often are not: one that
knows two classes is sure of one of them on any image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.evidence import Scopes, Truth
from cosup.settings.assigners import ConfidenceSettings


@dataclass
class Confidence(ConfidenceSettings, Assigner):
    """The teacher whose own annotation is the most certain."""

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
        scores = certainty(annotations, self.measure) / self.temperature
        return to_weights(scores, available(annotations), self.hard)


def certainty(annotations: Tensor, measure: str) -> Tensor:
    """How sure each annotation of [N, T, C] is, [N, T]: higher is surer."""
    if measure == "entropy":
        entropy: Tensor = torch.special.entr(annotations).sum(2)
        return -entropy
    if measure == "margin":
        first, second = annotations.topk(2, dim=2).values.unbind(2)
        return first - second
    return annotations.amax(2)
