"""Assign and filter arrays: a round's first half, for anybody's own training loop."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cosup.assignment import Assigner
from cosup.consistency import Chain, Filter
from cosup.evidence import Evidence, Scopes, mix
from cosup.rounds import Kept

__all__ = ["Decisions", "decide"]


@dataclass(frozen=True)
class Decisions:
    """Which teacher supervises each of N samples, with what annotation, and whether it is kept.

    weights: [N, T]. targets: [N, C]. keep: [N] bool. reason: the rejecting filter's name, or ''.
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
    """Assign and filter arrays: student_probs [N, C], annotations [N, T, C], features [N, D].

    For anybody's own training loop. Filters that need students of parts of the samples
    (`local_global` against `global`) are run by `run_round`, which trains them.
    """
    evidence = Evidence(student_probs, annotations, features)
    assigner.fit([evidence], scopes, seed=seed)
    weights = assigner.assign(student_probs, annotations, features, scopes)
    result = Chain([type(item).__name__ for item in filters], filters).keep(evidence, weights)
    kept = Kept(result.keep, result.rejected_by, result.reasons)
    return Decisions(weights, mix(annotations, weights), result.keep, kept.reason())
