"""Assignment by the truth: what perfect routing would give. It sees true labels: never a result."""

from dataclasses import dataclass

from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.errors import UserError
from cosup.evidence import Scopes, Truth


@dataclass
class Oracle(Assigner):
    """ORACLE: sees the true class and domain, and sends a sample to those whose scope holds it.

    Where no answering teacher's scope holds the sample, or its class is unknown, all answering
    teachers count as holding it.
    """

    hard: bool = False
    """Only the first teacher whose scope holds the sample, not all of them equally."""

    @property
    def needs(self) -> frozenset[str]:
        """The truth."""
        return frozenset({"truth"})

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """Weights [N, T], equal over the holders (one-hot when hard); `UserError` without truth."""
        if truth is None:
            raise UserError("assigner oracle: no true labels were given; it needs 'truth'")
        answers = available(annotations)
        holders = scopes.hold(truth).to(answers.device) & answers
        holders |= answers & ~holders.any(1, keepdim=True)
        return to_weights(annotations.new_zeros(holders.shape), holders, self.hard)
