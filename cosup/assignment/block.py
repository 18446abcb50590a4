"""CSL's rule for class specialists (Liu and Alahi, arXiv 2402.15505): the student's label decides.

c = argmax of the student of the round before; the sample goes to the teacher whose block of
classes holds c.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.errors import UserError
from cosup.evidence import Batches, Scopes, Truth
from cosup.settings.assigners import BlockSettings


@dataclass
class Block(BlockSettings, Assigner):
    """The teacher whose scope holds the class that the student predicts.

    Of several such teachers the one with the fewest classes, then the first. Where all of them
    abstain, the answering teacher in whose scope the student puts the most probability.
    """

    def check(self, scopes: Scopes) -> None:
        """`UserError` where classes can't tell the teachers apart."""
        if len(scopes) > 1 and bool((scopes.classes == scopes.classes[0]).all()):
            raise UserError(
                f"assigner block: teachers {', '.join(scopes.names)} know the same classes; it "
                "needs class specialists (for domain specialists use agreement or gate)"
            )

    def fit(
        self,
        batches: Batches,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learns nothing; `UserError` where classes can't tell the teachers apart."""
        self.check(scopes)

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """One-hot weights [N, T]."""
        self.check(scopes)
        classes = scopes.classes.to(student_probs.device)
        answers = available(annotations)
        mass = student_probs @ classes.T.to(student_probs.dtype)
        if self.soft_mass:
            return to_weights(mass, answers, hard=True)
        holds = classes.T[student_probs.argmax(1)] & answers
        # A smaller scope scores higher; every holder scores above the mass of those who aren't.
        narrow = 2 + 1 / classes.sum(1).clamp_min(1).to(mass.dtype)
        return to_weights(torch.where(holds, narrow, mass), answers, hard=True)
