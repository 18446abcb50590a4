"""The first half of a round, on arrays: assign teachers, then filter their annotations."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosup.arrays import ArrayLike, features_of, numbers_of
from cosup.assignment.base import Assigner
from cosup.consistency.base import Chain, Filter
from cosup.errors import UserError
from cosup.evidence import Assigned, Evidence, Scopes, ScopesLike
from cosup.settings import registered_name
from cosup.settings.assigners import ASSIGNERS
from cosup.settings.filters import FILTERS

__all__ = [
    "Choosable",
    "Decisions",
    "build_assigner",
    "build_filters",
    "check_given",
    "check_student",
    "decide",
    "needs_of",
    "provenance_of",
]

Choosable = str | Mapping[str, Any]
"""A registered name, or its settings: `{"name": "gate", "hard": False}`."""


@dataclass(frozen=True)
class Decisions:
    """Teachers, annotations and filter results of N samples.

    weights: [N, T] of the teachers. targets: [N, C], the assigned annotations (an all-zero row
    where all assigned teachers abstain). keep: [N] bool. reason: the name of the filter that
    rejects the sample, "abstained", or "". assigner: as it was fitted.
    """

    weights: Tensor
    targets: Tensor
    keep: Tensor
    reason: list[str]
    assigner: Assigner

    @property
    def labels(self) -> Tensor:
        """[N] int64: the most probable class of each annotation, -1 where there is none."""
        return Assigned(self.weights, self.targets).labels


def decide(
    student_probs: ArrayLike | None,
    annotations: ArrayLike,
    scopes: ScopesLike = None,
    *,
    assigner: Assigner | Choosable,
    filters: Sequence[Filter | Choosable] = (),
    num_classes: int | None = None,
    features: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    domains: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    coarse_probs: ArrayLike | None = None,
    provenance: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> Decisions:
    """Assign teachers to N samples, then filter the assigned annotations.

    Arrays are NumPy's or tensors, of any type of number. An assigner that is given as an object is
    fitted in place.

    student_probs: [N, C], the student's probabilities; None, if there is no student, for assigners
    and filters that compare with none. annotations: probabilities [N, T, C] (all 0: no answer), or
    class numbers [N, T] (-1: no answer). scopes: `Scopes`, or a list of classes (None: all) for
    each teacher; None: every teacher knows all classes. assigner, filters: names, settings such as
    `{"name": "gate", "hard": False}`, or objects. num_classes: C, where class numbers do not tell
    it. features: [N, D]. truth, labels: [N] class numbers, -1 unknown. domains: [N], from 0.
    coarse_probs: [N, C], of a student of coarser teachers. provenance: features [M, D] of the
    teachers' own training inputs, and membership [M, T].

    Raises `UserError` with the name of the argument that is wrong or missing. Filters that train
    students (`local_global` against `global`) are for `CoSupervision` and runs; here they raise it.

    >>> import cosup
    >>> votes = [[0, 0, 1], [1, 1, -1], [1, 2, 2], [2, 2, 2]]
    >>> made = cosup.decide(None, votes, assigner="mean", filters=["unanimity"])
    >>> made.labels.tolist(), made.reason
    ([0, 1, 2, 2], ['unanimity', '', 'unanimity', ''])
    """
    if num_classes is None and isinstance(scopes, Scopes):
        num_classes = scopes.classes.shape[1]
    evidence = Evidence.of(
        annotations,
        student_probs,
        num_classes=num_classes,
        features=features,
        truth=truth,
        domains=domains,
        labels=labels,
        coarse_probs=coarse_probs,
    )
    scopes = Scopes.given(scopes, *evidence.annotations.shape[1:])
    _check_domains(evidence, scopes)
    known = None if provenance is None else provenance_of(provenance, evidence.features, scopes)
    built, chain = build_assigner(assigner), build_filters(filters)
    _check_needs(built, chain, evidence, known is not None)
    built.check(scopes)
    built.fit([evidence], scopes, seed=seed, provenance=known)
    assigned = built.assign(evidence, scopes)
    kept = chain.keep(evidence, assigned)
    return Decisions(assigned.weights, assigned.targets, kept.keep, kept.reason(), built)


def build_assigner(given: Assigner | Choosable) -> Assigner:
    """Return the assigner that a name or settings stand for, or the object itself.

    Raises `UserError`.
    """
    if isinstance(given, Assigner):
        return given
    from cosup.registries import Assigners, build  # needs pydantic, which objects do not

    return build(Assigners, given, "assigner")


def build_filters(given: Sequence[Filter | Choosable]) -> Chain:
    """Return the chain of filters, each given by its name or settings, or as an object.

    Raises `UserError`.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise UserError(
            "must be {allowed}", key="filters", value=given, allowed="a list of filters"
        )
    found = [_filter(each, f"filters.{place}") for place, each in enumerate(given)]
    return Chain([registered_name(FILTERS, each) for each in found], found)


def _filter(given: Filter | Choosable, argument: str) -> Filter:
    if isinstance(given, Filter):
        return given
    from cosup.registries import Filters, build  # as above

    return build(Filters, given, argument)


def check_given(assigner: Assigner, filters: Chain, given: Set[str]) -> None:
    """Raise `UserError` with the argument that the assigner or a filter needs and that is not
    among those given."""
    for _, name, needs in needs_of(assigner, filters):
        for argument in sorted(needs - given):
            raise UserError(f"must be given: {name} needs it", key=argument)


def needs_of(assigner: Assigner, filters: Chain) -> list[tuple[str, str, Set[str]]]:
    """Return the argument, the name in words and the needs of the assigner and of each filter."""
    name = f"the assigner {registered_name(ASSIGNERS, assigner)}"
    pairs = zip(filters.names, filters.filters, strict=True)
    return [
        ("assigner", name, assigner.needs),
        *(("filters", f"the filter {name}", each.needs) for name, each in pairs),
    ]


def _check_needs(assigner: Assigner, filters: Chain, evidence: Evidence, known: bool) -> None:
    """Check that the evidence has what the assigner and the filters read."""
    for name, each in zip(filters.names, filters.filters, strict=True):
        if each.trains_students:
            raise UserError(
                f"the filter {name} trains students, which only CoSupervision and runs do",
                key="filters",
            )
    fields = ("features", "truth", "domains", "labels", "coarse_probs")
    given = {field for field in fields if getattr(evidence, field) is not None}
    check_given(assigner, filters, given | ({"provenance"} if known else set()))
    if not evidence.has_student:
        check_student(assigner, filters, "student_probs")


def check_student(assigner: Assigner, filters: Chain, argument: str) -> None:
    """Raise `UserError` with the argument if the assigner or a filter compares with a student that
    there is not."""
    who = []
    if assigner.guided and not assigner.reads_student:
        who.append(f"the assigner {registered_name(ASSIGNERS, assigner)}")
    pairs = zip(filters.names, filters.filters, strict=True)
    who += [f"the filter {name}" for name, each in pairs if each.compares or each.trains_students]
    for name in who:
        raise UserError(
            f"must be given: {name} compares with the student (in its first round, a run has the "
            "mean of the annotations in its place)",
            key=argument,
        )


def _check_domains(evidence: Evidence, scopes: Scopes) -> None:
    domains = scopes.domains.shape[1]
    if evidence.domains is not None and int(evidence.domains.max()) >= domains:
        raise UserError(
            "{value} does not exist",
            key="domains",
            value=int(evidence.domains.max()),
            allowed=f"0 .. {domains - 1}, the domains of scopes",
        )


def provenance_of(
    given: tuple[ArrayLike, ArrayLike], features: Tensor | None, scopes: Scopes
) -> tuple[Tensor, Tensor]:
    """Return features [M, D] of the teachers' training inputs and membership [M, T] float32.

    features: [N, D] of the samples. Raises `UserError`.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UserError(
            "must be {allowed}", key="provenance", allowed="a pair of features [M, D] and [M, T]"
        )
    inputs = features_of(given[0], "provenance.0")
    if features is not None and inputs.shape[1] != features.shape[1]:
        raise UserError(
            f"has {inputs.shape[1]} columns, and the features have {features.shape[1]}",
            key="provenance.0",
        )
    shape, dims = (len(inputs), len(scopes)), ("M", "T")
    return inputs, numbers_of(given[1], "provenance.1", shape, dims).to(torch.float32)
