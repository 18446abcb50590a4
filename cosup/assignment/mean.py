"""All teachers together: the mean of the annotations, a plain ensemble."""

from dataclasses import dataclass

from torch import Tensor

from cosup.assignment.base import Assigner, available
from cosup.evidence import Scopes, Truth


@dataclass
class Mean(Assigner):
    """Equal weights over the teachers that answer."""

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """Weights [N, T], equal over the answering teachers of each sample."""
        answers = available(annotations).to(annotations.dtype)
        return answers / answers.sum(1, keepdim=True)
