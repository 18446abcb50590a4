"""Inputs of assigners and filters: the scopes of teachers, and evidence on samples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from cosup.errors import UserError


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


def _membership(groups: Sequence[Iterable[int] | None], size: int, kind: str) -> Tensor:
    table = torch.zeros(len(groups), size, dtype=torch.bool)
    for row, members in enumerate(groups):
        chosen = range(size) if members is None else list(members)
        for member in chosen:
            if not 0 <= member < size:
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
