"""Assign all samples of a level, and keep the assignments that rounds have in common.

Candidates of a choice, the rounds of a run and its controls often ask the same assigner about the
same evidence: a gate that is fitted once serves all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.levels import Assignment, Stream
from cosup.probabilities import ProbTable
from cosup.seeds import seed_for

__all__ = ["Assign", "Assignments", "assign", "assign_fitted", "harden"]

Assign = Callable[[Assigner, Stream, int, bool], Assignment]
"""As `assign`."""

KEPT_BYTES = 2**28
"""Memory for assignments that are kept."""


def assign(assigner: Assigner, stream: Stream, seed: int, hard: bool = False) -> Assignment:
    """Fit the assigner, then assign every sample. hard: harden the annotations."""
    scopes = stream.level.scopes
    stream = stream.restricted(assigner.uses)
    provenance = stream.level.provenance if "provenance" in assigner.uses else None
    assigner.fit(stream, scopes, seed=seed_for(seed, "assigner"), provenance=provenance)
    return assign_fitted(assigner, stream, hard)


def assign_fitted(assigner: Assigner, stream: Stream, hard: bool = False) -> Assignment:
    """Assign every sample by a fitted assigner. hard: harden the annotations."""
    scopes = stream.level.scopes
    stream = stream.restricted(assigner.uses)
    weights = torch.zeros(len(stream), len(scopes))
    targets = ProbTable.empty(len(stream), stream.num_classes)
    nats, loss_weights = [], []
    for rows, evidence in stream.items():
        assigned = assigner.assign(evidence, scopes)
        weights[rows] = assigned.weights
        targets.put(rows, ProbTable.compress(assigned.targets))
        nats += [] if assigned.nats is None else [assigned.nats]
        loss_weights += [] if assigned.loss_weights is None else [assigned.loss_weights]
    return Assignment(
        weights,
        harden(targets) if hard else targets,
        assigner.mixes,
        torch.cat(nats) if nats else None,
        torch.cat(loss_weights) if loss_weights else None,
        targets,
    )


def harden(table: ProbTable) -> ProbTable:
    """Return the most probable class of each row as a one-hot row; abstentions stay all zero."""
    labels, confidence = table.top()
    return ProbTable.one_hot(torch.where(confidence > 0, labels, -1), table.num_classes)


@dataclass(frozen=True, eq=False)
class _Kept:
    """An assignment before hardening, what it was computed from, and the assigner's state."""

    assigner: Assigner
    stream: Stream
    seed: int
    assignment: Assignment
    state: dict[str, Tensor]

    def answers(self, assigner: Assigner, stream: Stream, seed: int) -> bool:
        """Whether `assign` would find the same again. The stream is restricted, as here."""
        mine = self.stream
        return (
            seed == self.seed
            and type(assigner) is type(self.assigner)
            and assigner == self.assigner
            and stream.level.annotations is mine.level.annotations
            and stream.level.scopes is mine.level.scopes
            and stream.level.provenance is mine.level.provenance
            and stream.features is mine.features
            and stream.truth is mine.truth
            and stream.labels is mine.labels
            and stream.domains is mine.domains
            and (not assigner.guided or _equal(stream.student, mine.student))
            and (not assigner.guided or _equal(stream.coarse, mine.coarse))
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        found, student = self.assignment, self.stream.student
        tensors = [found.weights, found.nats, found.loss_weights, *self.state.values()]
        for table in (found.targets, student):
            tensors += [] if table is None else table.tensors().values()
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


class Assignments:
    """Assigns as `assign` does, and keeps the latest assignments for those who ask the same."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def assign(
        self, assigner: Assigner, stream: Stream, seed: int, hard: bool = False
    ) -> Assignment:
        """Return what `assign` returns, and leave the assigner in the same state."""
        asked = stream.restricted(assigner.uses)
        found = next((one for one in self._kept if one.answers(assigner, asked, seed)), None)
        if found is None:
            assignment = assign(assigner, stream, seed)
            found = _Kept(assigner, asked, seed, assignment, _copied(assigner.state_dict()))
        else:
            self._kept.remove(found)
            assigner.load_state_dict(_copied(found.state))
        self._kept.append(found)
        while sum(one.nbytes for one in self._kept) > KEPT_BYTES:
            del self._kept[0]
        if not hard:
            return found.assignment
        return replace(found.assignment, targets=harden(found.assignment.targets))


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _equal(table: ProbTable | None, other: ProbTable | None) -> bool:
    """Whether two tables hold the same numbers."""
    if table is None or other is None or table is other:
        return table is other
    parts, others = table.tensors(), other.tensors()
    return parts.keys() == others.keys() and all(
        torch.equal(part, others[name]) for name, part in parts.items()
    )
