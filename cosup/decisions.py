"""Assign and filter arrays: the first half of a round, for use in other training loops."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.consistency.base import Chain, Filter
from cosup.evidence import Evidence, Scopes

__all__ = ["Decisions", "decide"]


@dataclass(frozen=True)
class Decisions:
    """Teachers, annotations and filter results of N samples.

    weights: [N, T] of the teachers. targets: [N, C], the assigned annotations. keep: [N] bool.
    reason: the class of the filter that rejects the sample, "abstained", or "".
    """

    weights: Tensor
    targets: Tensor
    keep: Tensor
    reason: list[str]


def decide(
    student_probs: Tensor,
    annotations: Tensor,
    scopes: Scopes,
    *,
    features: Tensor | None = None,
    assigner: Assigner,
    filters: Sequence[Filter] = (),
    seed: int = 0,
) -> Decisions:
    """Assign and filter student_probs [N, C], annotations [N, T, C] and features [N, D].

    Filters that train students (`local_global` against `global`) are for `cosup.rounds`; here they
    raise `UserError`.
    """
    evidence = Evidence(student_probs, annotations, features)
    assigner.fit([evidence], scopes, seed=seed)
    assigned = assigner.assign(evidence, scopes)
    kept = Chain([type(item).__name__ for item in filters], filters).keep(evidence, assigned)
    return Decisions(assigned.weights, assigned.targets, kept.keep, kept.reason())
