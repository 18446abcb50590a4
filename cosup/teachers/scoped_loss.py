"""Cross-entropy over a teacher's own classes: it is not taught that the others don't exist."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.losses.base import Loss, Metrics

__all__ = ["ScopedCrossEntropy"]


@dataclass
class ScopedCrossEntropy(Loss):
    """Cross-entropy of each head to its targets, the softmax taken over its classes alone.

    support: [H, C] bool, or [C] for one network. Targets must lie within it.
    """

    support: Tensor

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Losses [H, B] (or [B]) of logits and targets [H, B, C] (or [B, C])."""
        inside = self.support.to(logits.device).unsqueeze(-2)
        log_probs = logits.masked_fill(~inside, -torch.inf).log_softmax(-1)
        # -inf times a target of 0 would not be 0.
        return -(targets * log_probs.masked_fill(~inside, 0.0)).sum(-1), {}
