"""What assigners and filters look at: the scopes of teachers, and probabilities of samples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cosup.errors import UserError


@dataclass(frozen=True)
class Truth:
    """True classes and domains; for the oracle and for analysis alone.

    labels: [N] int64, -1 where unknown. domains: [N] int64 (all 0 where there is one domain).
    """

    labels: Tensor
    domains: Tensor


@dataclass(frozen=True)
class Scopes:
    """What each of T teachers was trained on.

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
        """Scopes from one list of classes (and domains) per teacher; None means all."""
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
        """The scopes of these teachers, in this order."""
        index = list(order)
        return Scopes(tuple(self.names[i] for i in index), self.classes[index], self.domains[index])

    def hold(self, truth: Truth) -> Tensor:
        """[N, T] bool: does the teacher's scope hold the sample's true class and domain?

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
    """What is known about N samples when they are assigned and filtered.

    student_probs: [N, C] float32, the latest student's. annotations: [N, T, C] float32, the
    level's teachers (an all-zero row is an abstention). features: [N, D] or None. The rest is
    filled in only for those that declare they need it: truth; coarse_probs [N, C], the student
    taught by the level above; global_probs and local_probs [N, C], the student of all kept
    samples, and the one of the samples sent to the same teacher; labels [N] int64, as given to
    trainers (-1 unknown), where the student may see them.
    """

    student_probs: Tensor
    annotations: Tensor
    features: Tensor | None = None
    truth: Truth | None = None
    coarse_probs: Tensor | None = None
    global_probs: Tensor | None = None
    local_probs: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return self.student_probs.shape[0]


class Batches(Protocol):
    """Evidence in batches, in the samples' order; can be iterated again and again."""

    def __iter__(self) -> Iterator[Evidence]: ...


def mix(annotations: Tensor, weights: Tensor) -> Tensor:
    """The assigned annotation [N, C]: teachers' annotations [N, T, C] mixed by weights [N, T].

    Where a weighted teacher abstains the others' mass is scaled up; all zero if all abstain.
    """
    mixed = torch.einsum("ntc,nt->nc", annotations, weights)
    total = mixed.sum(1, keepdim=True)
    return mixed / torch.where(total > 0, total, torch.ones_like(total))
