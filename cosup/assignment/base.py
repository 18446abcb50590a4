"""The contract of assigners, and functions that they share."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cosup.assignment.parts import Parts, Whole
from cosup.evidence import Assigned, Batches, Evidence, Scopes
from cosup.settings.assigners import AssignerSettings


class Assigner(AssignerSettings, ABC):
    """Base of assigners: choose the teachers that annotate each sample of a level.

    A subclass is a dataclass whose fields are its settings. An assigner is pure: the same evidence
    and the same learned state give the same weights, whatever the batches. The names of learned
    state end in `_`, and `state_dict` returns it.
    """

    @abstractmethod
    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return the weights [N, T] of the teachers for each sample.

        Rows sum to 1 and are one-hot if the assigner is hard. A teacher that abstains on a sample
        (its row is all zero) gets weight 0, unless all teachers abstain.
        """

    def assign(self, evidence: Evidence, scopes: Scopes) -> Assigned:
        """Return the weights [N, T] and the assigned annotations [N, C]: the weighted mixture.

        An assigner with better annotations than the mixture overrides this, and sets `mixes` to
        False.
        """
        return Assigned.mixture(evidence.annotations, self.weights(evidence, scopes))

    def elsewhere(self) -> "Assigner":
        """Return the assigner for samples other than those it was fitted to; by default itself."""
        return self

    def check(self, scopes: Scopes) -> None:
        """Raise `UserError` for a level whose teachers this assigner cannot use."""

    def check_parts(self, samples: int, scopes: Scopes) -> None:
        """Raise `UserError` for more samples in several parts than are held; by default, never."""

    def fit(
        self,
        batches: Batches,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learn from all samples, before `assign`; by default there is nothing to learn.

        Any earlier state is replaced. provenance: features [M, D] of the teachers' own training
        inputs and membership [M, T] (which teachers trained on each), for assigners that need it.
        """

    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learn as `fit` does from samples in parts; by default, all are read here."""
        self.fit(parts.batches, scopes, seed=seed, provenance=provenance)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the learned state."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""


class SummingAssigner(Assigner):
    """Base of assigners that learn from parts of the samples: from sums over them, from samples
    drawn of them, or from as many samples as `check_parts` allows. In memory there is one part."""

    def fit(
        self,
        batches: Batches,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learn as `fit_parts` does from all samples."""
        self.fit_parts(Whole(batches), scopes, seed=seed, provenance=provenance)

    @abstractmethod
    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Learn from the parts; raise `UserError` for more samples than `check_parts` allows."""


def available(annotations: Tensor) -> Tensor:
    """Return [N, T] bool: which teachers answer; all of them where all abstain."""
    answers = annotations.sum(2) > 0
    return answers | ~answers.any(1, keepdim=True)


def to_weights(scores: Tensor, answers: Tensor, hard: bool) -> Tensor:
    """Return weights [N, T] from log-scores [N, T] of the answering teachers.

    One-hot of the best teacher if hard, the first one of a tie; else a softmax.
    """
    scores = scores.masked_fill(~answers, -torch.inf)
    if not hard:
        return scores.softmax(1)
    # argmax leaves ties to the backend; the first maximum is the same everywhere.
    best = scores == scores.max(1, keepdim=True).values
    first = best & (best.cumsum(1) == 1)
    return first.to(scores.dtype)
