"""Assignment to the most confident teacher.

Assumes that teachers are most confident where they are most accurate. Specialists often are not:
a teacher of two classes gives one of them a high probability on any image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.evidence import Evidence, Scopes
from cosup.settings.assigners import ConfidenceSettings


@dataclass
class Confidence(ConfidenceSettings, Assigner):
    """Assign each sample to the teacher whose annotation is the most confident."""

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T], one-hot if hard."""
        scores = confidences(evidence.annotations, self.measure) / self.temperature
        return to_weights(scores, available(evidence.annotations), self.hard)


def confidences(annotations: Tensor, measure: str) -> Tensor:
    """Return the confidence [N, T] of annotations [N, T, C] by `ConfidenceSettings.measure`."""
    if measure == "entropy":
        entropy: Tensor = torch.special.entr(annotations).sum(2)
        return -entropy
    if measure == "margin":
        first, second = annotations.topk(2, dim=2).values.unbind(2)
        return first - second
    return annotations.amax(2)
