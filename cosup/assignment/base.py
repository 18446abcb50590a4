"""The contract of assigners, and functions that they share."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cosup.evidence import Batches, Scopes, Truth
from cosup.settings.assigners import AssignerSettings


class Assigner(AssignerSettings, ABC):
    """Sends samples to teachers: weights over the teachers of a level.

    A subclass is a dataclass whose fields are its settings. Learned state ends in `_` and goes
    through `state_dict`.
    """

    @abstractmethod
    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """Weights [N, T] from student_probs [N, C], annotations [N, T, C] and features [N, D].

        Rows sum to 1 and are one-hot when the assigner is hard. A teacher that abstains on a
        sample (its row is all zero) gets weight 0 there, unless all of them do.
        """

    def check(self, scopes: Scopes) -> None:
        """`UserError` for a level whose teachers this assigner can't tell apart, or find."""

    def fit(
        self,
        batches: Batches,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learn from all samples, before `assign`. Stateless assigners learn nothing.

        provenance: features [M, D] of the teachers' own training inputs, and membership [M, T]
        (which teachers trained on each); given to those that need it.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Learned state, to be kept with a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the state that `state_dict` gave."""


def available(annotations: Tensor) -> Tensor:
    """[N, T] bool: which teachers answer; all of them where all abstain."""
    answers = annotations.sum(2) > 0
    return answers | ~answers.any(1, keepdim=True)


def to_weights(scores: Tensor, answers: Tensor, hard: bool) -> Tensor:
    """Weights [N, T] from log-scores [N, T]: one-hot of the best answering teacher, or a softmax.

    Ties of a hard choice go to the first teacher.
    """
    scores = scores.masked_fill(~answers, -torch.inf)
    if not hard:
        return scores.softmax(1)
    # argmax leaves ties to the backend; the first maximum is the same everywhere.
    best = scores == scores.max(1, keepdim=True).values
    first = best & (best.cumsum(1) == 1)
    return first.to(scores.dtype)
