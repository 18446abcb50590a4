"""Inputs of assigners and filters: the scopes of teachers, and evidence on samples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Protocol

import torch
from torch import Tensor

from cosup.arrays import (
    ArrayLike,
    annotations_of,
    classes_of,
    codes_of,
    features_of,
    probabilities_of,
)
from cosup.errors import UserError, within
from cosup.words import plural


@dataclass(frozen=True)
class Truth:
    """True classes and domains, for oracle routing and for analysis only.

    labels: [N] int64, -1 where unknown. domains: [N] int64 (all 0 where there is one domain).
    """

    labels: Tensor
    domains: Tensor


@dataclass(frozen=True)
class Scopes:
    """Classes and domains that each of T teachers was trained on.

    classes: [T, C] bool. domains: [T, G] bool (G = 1, all true, where there are no domains).
    """

    names: tuple[str, ...]
    classes: Tensor
    domains: Tensor

    @staticmethod
    def of(
        classes: Sequence[Iterable[int] | None],
        num_classes: int,
        domains: Sequence[Iterable[int] | None] | None = None,
        num_domains: int = 1,
        names: Sequence[str] | None = None,
    ) -> "Scopes":
        """Return the scopes from one list of classes (and domains) per teacher; None means all.

        Raises `UserError` for a class or domain out of range.
        """
        count = len(classes)
        names = tuple(names) if names is not None else tuple(f"teacher_{t}" for t in range(count))
        domains = domains if domains is not None else [None] * count
        return Scopes(
            names,
            _membership(classes, num_classes, "class"),
            _membership(domains, num_domains, "domain"),
        )

    @staticmethod
    def given(scopes: "ScopesLike", teachers: int, num_classes: int) -> "Scopes":
        """Return the scopes of T teachers from what a user gives.

        scopes: `Scopes`, a list of classes for each teacher (None: all classes), or None (teachers
        of all classes). Raises `UserError` if they are not of so many teachers and classes.
        """
        if not isinstance(scopes, Scopes):
            listed = [None] * teachers if scopes is None else scopes
            with within("scopes"):
                if not isinstance(listed, Sequence) or any(map(_no_list, listed)):
                    raise UserError(
                        "must be {allowed}",
                        value=scopes,
                        allowed="Scopes, a list with a list of classes (or None) per teacher, or "
                        "None",
                    )
                scopes = Scopes.of(listed, num_classes)
        sizes = len(scopes), scopes.classes.shape[1]
        for found, wanted, noun in zip(sizes, (teachers, num_classes), _SIZES, strict=True):
            if found != wanted:
                raise UserError(
                    f"has {plural(found, noun)}, and the annotations have {wanted}", key="scopes"
                )
        return scopes

    def __len__(self) -> int:
        return len(self.names)

    def take(self, order: Sequence[int]) -> "Scopes":
        """Return the scopes of these teachers, in this order."""
        index = list(order)
        return Scopes(tuple(self.names[i] for i in index), self.classes[index], self.domains[index])

    @property
    def restricted(self) -> Tensor:
        """[T] bool: whether the scope of a teacher lacks a class or a domain."""
        return ~(self.classes.all(1) & self.domains.all(1))

    def hold(self, truth: Truth) -> Tensor:
        """Return [N, T] bool: whether a teacher's scope contains a sample's true class and domain.

        False where the class is unknown (-1).
        """
        known = truth.labels >= 0
        in_classes = self.classes.T[truth.labels.clamp_min(0)] & known[:, None]
        return in_classes & self.domains.T[truth.domains]


def _no_list(classes: object) -> bool:
    return isinstance(classes, str) or not isinstance(classes, Iterable | None)


_SIZES = ("teacher", "class")

ScopesLike = Scopes | Sequence[Iterable[int] | None] | None
"""What functions on arrays take as scopes (`Scopes.given`)."""


def _membership(groups: Sequence[Iterable[int] | None], size: int, kind: str) -> Tensor:
    table = torch.zeros(len(groups), size, dtype=torch.bool)
    for row, members in enumerate(groups):
        chosen = range(size) if members is None else list(members)
        for member in chosen:
            if not isinstance(member, Integral) or not 0 <= member < size:
                raise UserError(
                    f"scope of teacher {row}: {kind} {member} is not in 0 .. {size - 1}"
                )
            table[row, member] = True
    return table


@dataclass(frozen=True)
class Evidence:
    """Evidence on N samples, for assigning and filtering them.

    student_probs: [N, C] float32, of the latest student. annotations: [N, T, C] float32, of the
    teachers of the level (an all-zero row is an abstention). features: [N, D] or None.
    index: [N] int64, the positions of the samples among all samples of the level; None: from 0.

    The other fields are filled in only for assigners and filters that need them. truth: true
    classes and domains. coarse_probs: [N, C], of the student of the level above. global_probs,
    local_probs: [N, C], of the student trained on all kept samples, and of the one trained on those
    assigned to the same teacher. labels: [N] int64 as given to trainers (-1 unknown), where the
    student may use them. domains: [N] int64, known domains. has_student: False where there is no
    student yet, and `student_probs` is the mean annotation in its place.
    """

    student_probs: Tensor
    annotations: Tensor
    features: Tensor | None = None
    truth: Truth | None = None
    coarse_probs: Tensor | None = None
    global_probs: Tensor | None = None
    local_probs: Tensor | None = None
    labels: Tensor | None = None
    index: Tensor | None = None
    domains: Tensor | None = None
    has_student: bool = True

    @staticmethod
    def of(
        annotations: ArrayLike,
        student_probs: ArrayLike | None = None,
        *,
        num_classes: int | None = None,
        features: ArrayLike | None = None,
        truth: ArrayLike | None = None,
        domains: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        coarse_probs: ArrayLike | None = None,
    ) -> "Evidence":
        """Return evidence from arrays, NumPy's or tensors, after checking them.

        annotations: probabilities [N, T, C], or class numbers [N, T] with -1 for no answer.
        student_probs: [N, C]; None: there is no student. num_classes: C, where class numbers do not
        tell it; None: the largest one plus 1, if there is no student. truth: [N] true classes, -1
        unknown. domains: [N], numbers from 0. The others are as in the class. Raises `UserError`
        with the name of the argument that is wrong.

        >>> import cosup
        >>> votes = [[0, 0, -1], [1, 2, 1]]  # two samples, three annotators
        >>> evidence = cosup.Evidence.of(votes, num_classes=3)
        >>> list(evidence.annotations.shape)
        [2, 3, 3]
        """
        student = None
        if student_probs is not None:
            student = probabilities_of(student_probs, "student_probs", (None, None))
            num_classes = student.shape[1] if num_classes is None else num_classes
        given = annotations_of(annotations, num_classes)
        samples, _, classes = given.shape

        def probs(name: str, value: ArrayLike | None) -> Tensor | None:
            if value is None:
                return None
            return probabilities_of(value, name, (samples, classes)).to(given.device)

        def numbers(name: str, value: ArrayLike | None) -> Tensor | None:
            return None if value is None else classes_of(value, name, samples, classes)

        places = None if domains is None else codes_of(domains, "domains", samples).to(given.device)
        student, true = probs("student_probs", student), numbers("truth", truth)
        where = torch.zeros(samples, dtype=torch.int64) if places is None else places
        return Evidence(
            student_probs=mean_annotation(given) if student is None else student,
            annotations=given,
            features=None
            if features is None
            else features_of(features, "features", samples).to(given.device),
            truth=None if true is None else Truth(true, where.to(given.device)),
            coarse_probs=probs("coarse_probs", coarse_probs),
            labels=numbers("labels", labels),
            domains=places,
            has_student=student is not None,
        )

    def __len__(self) -> int:
        return self.student_probs.shape[0]

    def indices(self) -> Tensor:
        """Return `index`, or 0 .. N - 1 if it is not given."""
        return torch.arange(len(self)) if self.index is None else self.index


@dataclass(frozen=True)
class Assigned:
    """Decision of an assigner on N samples.

    weights: [N, T] of the teachers. targets: [N, C], the assigned annotations (an all-zero row
    where all assigned teachers abstain). nats: [N, T + 1], the evidence of each teacher, and last
    of the student, for the most probable class; None from assigners that only choose.
    loss_weights: [N], by which the loss of each sample is multiplied, or None for 1.
    """

    weights: Tensor
    targets: Tensor
    nats: Tensor | None = None
    loss_weights: Tensor | None = None

    @staticmethod
    def mixture(annotations: Tensor, weights: Tensor) -> "Assigned":
        """Assign the mixture of annotations [N, T, C] by weights [N, T]."""
        return Assigned(weights, mix(annotations, weights))

    @cached_property
    def confidence(self) -> Tensor:
        """[N]: the largest probability of each annotation, 0 where it is an abstention."""
        return self.targets.gather(1, self.targets.argmax(1)[:, None])[:, 0]

    @cached_property
    def labels(self) -> Tensor:
        """[N] int64: the most probable class of each annotation (the first of equal ones), -1 where
        it is an abstention."""
        return self.targets.argmax(1).masked_fill(self.confidence <= 0, -1)


class Batches(Protocol):
    """Evidence in batches, in the order of the samples; can be iterated several times."""

    def __iter__(self) -> Iterator[Evidence]: ...


def mix(annotations: Tensor, weights: Tensor) -> Tensor:
    """Return the mixture [N, C] of annotations [N, T, C] by weights [N, T].

    Where a weighted teacher abstains, the others are scaled up; all zero if all abstain.
    """
    mixed = torch.einsum("ntc,nt->nc", annotations, weights)
    total = mixed.sum(1, keepdim=True)
    return mixed / torch.where(total > 0, total, torch.ones_like(total))


def mean_annotation(annotations: Tensor) -> Tensor:
    """Return the mean [n, C] of the annotations of the teachers that answer; uniform if none do."""
    total = annotations.sum(1)
    mass = total.sum(1, keepdim=True)
    uniform = torch.full_like(total, 1 / total.shape[1])
    return torch.where(mass > 0, total / mass.clamp_min(1e-12), uniform)
