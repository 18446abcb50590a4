"""Distillation by binary cross-entropy (BKD), in the code of Guo et al., arXiv 2402.03749.

    L = mean over classes c of -t_c log sigmoid(z_c) - (1 - t_c) log(1 - sigmoid(z_c))

with t the annotation's probabilities. Each class is a question of its own, as in Beyer et al., "Are
we done with ImageNet?", arXiv 2006.07159.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cosup.losses.base import Loss, Metrics, answered
from cosup.losses.features import full
from cosup.settings.losses import BinaryDistillationSettings


@dataclass
class BinaryDistillation(BinaryDistillationSettings, Loss):
    """Binary cross-entropy of each class's logit with its probability in the annotation."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros."""
        scores = full(logits)
        targets = targets.to(scores.dtype)
        losses = binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return losses.mean(-1) * answered(targets), {}
