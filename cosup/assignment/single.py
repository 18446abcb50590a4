"""One teacher annotates everything: the plain weak-to-strong setting."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.errors import UserError, unknown_name
from cosup.evidence import Scopes, Truth


@dataclass
class Single(Assigner):
    """Every sample goes to one teacher.

    Nobody steps in where that teacher abstains, since then it would no longer be the only one: the
    assigned annotation is empty there, and the consistency chain rejects the sample.
    """

    teacher: str | None = None
    """The teacher's name; null takes the level's only teacher."""

    def check(self, scopes: Scopes) -> None:
        """`UserError` if the level has no such teacher."""
        self._index(scopes)

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """One-hot weights [N, T], the same row for all; `UserError` if there is no such teacher."""
        weights = torch.zeros_like(annotations[:, :, 0])
        weights[:, self._index(scopes)] = 1
        return weights

    def _index(self, scopes: Scopes) -> int:
        if self.teacher is not None:
            if self.teacher not in scopes.names:
                raise unknown_name("teacher", self.teacher, scopes.names)
            return scopes.names.index(self.teacher)
        if len(scopes) != 1:
            raise UserError(
                f"assigner single: the level has {len(scopes)} teachers; set 'teacher' to one of "
                f"{', '.join(scopes.names)}"
            )
        return 0
