"""Assignment by the student's class, for class specialists.

The rule of Co-Supervised Learning (Liu and Alahi, arXiv 2402.15505; METHODS.md section 1): with
c = argmax of the student of the previous round, the sample is assigned to the teacher whose classes
include c.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.errors import UserError
from cosup.evidence import Batches, Evidence, Scopes
from cosup.settings.assigners import BlockSettings


@dataclass
class Block(BlockSettings, Assigner):
    """Assign each sample to the teacher whose scope contains the student's class.

    If there are several, to the one with the fewest classes, then the first. If all of them
    abstain, to the answering teacher in whose scope the student puts the most probability.
    """

    def check(self, scopes: Scopes) -> None:
        """Raise `UserError` if all teachers have the same classes."""
        if len(scopes) > 1 and bool((scopes.classes == scopes.classes[0]).all()):
            raise UserError(
                f"assigner block: teachers {', '.join(scopes.names)} have the same classes; it "
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
        """Check the scopes; there is nothing to learn."""
        self.check(scopes)

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return one-hot weights [N, T]; raise `UserError` as `check` does."""
        self.check(scopes)
        student = evidence.student_probs
        classes = scopes.classes.to(student.device)
        answers = available(evidence.annotations)
        mass = student @ classes.T.to(student.dtype)
        if self.soft_mass:
            return to_weights(mass, answers, hard=True)
        holds = classes.T[student.argmax(1)] & answers
        # A smaller scope scores higher; any scope with the class scores above all those without.
        narrow = 2 + 1 / classes.sum(1).clamp_min(1).to(mass.dtype)
        return to_weights(torch.where(holds, narrow, mass), answers, hard=True)
