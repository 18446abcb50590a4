"""The contract of assigners, and what they share.

Checks of assigners' settings, for those who build them in Python as for those who write YAML.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from cosup.errors import UserError
from cosup.evidence import Batches, Scopes, Truth


class Assigner(ABC):
    """Sends samples to teachers: weights over the teachers of a level.

    A subclass is a dataclass whose fields are its settings. Learned state ends in `_` and goes
    through `state_dict`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    @property
    def needs(self) -> frozenset[str]:
        """What must be given beyond probabilities: "features", "truth", "provenance"."""
        return frozenset()

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

    def check(self, scopes: Scopes) -> None:  # noqa: B027 -- most suit every level
        """`UserError` for a level whose teachers this assigner can't tell apart, or find."""

    def fit(  # noqa: B027 -- most assigners have nothing to learn
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

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 -- as above
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


def at_least(low: float, **settings: float) -> None:
    """`UserError` naming the first setting that is below `low` (or not a number)."""
    for name, value in settings.items():
        if not value >= low:
            raise UserError(f"{name}: {value}: must be at least {low:g}")


def above(low: float, **settings: float) -> None:
    """`UserError` naming the first setting that is not above `low`."""
    for name, value in settings.items():
        if not value > low:
            raise UserError(f"{name}: {value}: must be above {low:g}")


def one_of(allowed: Sequence[str], **settings: str) -> None:
    """`UserError` naming the first setting whose value isn't allowed."""
    for name, value in settings.items():
        if value not in allowed:
            raise UserError(f"{name}: '{value}': must be one of {', '.join(allowed)}")
