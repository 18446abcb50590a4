"""What a round works on: a level's teachers and annotations, streamed as evidence."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from cosup.evidence import Evidence, Scopes, Truth
from cosup.losses.features import Live
from cosup.probabilities import ProbTable
from cosup.protocols import Inputs, TestInputs

MAX_ELEMENTS = 2**23
"""Annotation values [n, T, C] held at a time: 32 MiB in float32, a few times that in use."""


class LevelAnnotations(Protocol):
    """A level's annotations of N samples, wherever they are stored."""

    def __len__(self) -> int: ...

    def iter_dense(self, max_elements: int = ...) -> Iterator[tuple[slice, Tensor]]:
        """(rows, annotations [n, T, C] float32), in the samples' order."""
        ...


@dataclass(frozen=True)
class ArrayAnnotations:
    """Annotations [N, T, C] that are in memory."""

    annotations: Tensor

    def __len__(self) -> int:
        return self.annotations.shape[0]

    def iter_dense(self, max_elements: int = MAX_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """Batches of at most `max_elements` values."""
        _, teachers, classes = self.annotations.shape
        step = max(1, max_elements // (teachers * classes))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self.annotations[rows]


@dataclass(frozen=True)
class Level:
    """One floor of the hierarchy.

    provenance: features [M, D] of the teachers' own training inputs and membership [M, T], or
    None where they aren't known. live: the teachers as networks, where the student's loss asks
    them during training.
    """

    index: int
    scopes: Scopes
    annotations: LevelAnnotations
    provenance: tuple[Tensor, Tensor] | None = None
    live: Live | None = None


@dataclass(frozen=True)
class Task:
    """The samples that the student learns from and those that measure it.

    inputs: what the student reads of student_train, N samples: features or images; test_inputs: of
    the test split. truth: of student_train; serves the oracle, the ceiling and analysis alone.
    features: [N, D] float16 or float32, memory-mapped or not, for assigners that look at them.
    labels: [N] as given to trainers (noise included, -1 unknown), for settings in which the student
    may see them. validation_inputs: for choices made along the way.
    """

    levels: tuple[Level, ...]
    inputs: Inputs
    test_inputs: TestInputs
    truth: Truth
    num_classes: int
    features: Tensor | None = None
    labels: Tensor | None = None
    validation_inputs: TestInputs | None = None


@dataclass(frozen=True)
class Stream:
    """Evidence on a level's samples, batch by batch; dense for one batch at a time."""

    level: Level
    student: ProbTable | None
    features: Tensor | None
    truth: Truth | None
    coarse: ProbTable | None = None
    global_probs: ProbTable | None = None
    local_probs: ProbTable | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.level.annotations)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.level.scopes.classes.shape[1]

    def __iter__(self) -> Iterator[Evidence]:
        for _, evidence in self.items():
            yield evidence

    def items(self) -> Iterator[tuple[slice, Evidence]]:
        """(rows, evidence) in the samples' order."""
        for rows, annotations in self.level.annotations.iter_dense(MAX_ELEMENTS):
            # Before there is a student, and above the coarsest level, the crowd stands in.
            first = self.student is None or self.coarse is None
            stand_in = crowd(annotations) if first else None
            yield (
                rows,
                Evidence(
                    student_probs=_given(_part(self.student, rows), stand_in),
                    annotations=annotations,
                    features=None if self.features is None else self.features[rows].float(),
                    truth=None
                    if self.truth is None
                    else Truth(self.truth.labels[rows], self.truth.domains[rows]),
                    coarse_probs=_given(_part(self.coarse, rows), stand_in),
                    global_probs=_part(self.global_probs, rows),
                    local_probs=_part(self.local_probs, rows),
                    labels=None if self.labels is None else self.labels[rows],
                ),
            )

    def restricted(self, needs: frozenset[str]) -> "Stream":
        """The same stream without what isn't needed, so that nothing sees truth by accident."""
        return replace(
            self,
            features=self.features if needs & {"features", "provenance"} else None,
            truth=self.truth if "truth" in needs else None,
            labels=self.labels if "labels" in needs else None,
        )


def crowd(annotations: Tensor) -> Tensor:
    """Mean annotation [n, C] of the teachers that answer: stands in before there is a student."""
    total = annotations.sum(1)
    mass = total.sum(1, keepdim=True)
    uniform = torch.full_like(total, 1 / total.shape[1])
    return torch.where(mass > 0, total / mass.clamp_min(1e-12), uniform)


def _part(table: ProbTable | None, rows: slice) -> Tensor | None:
    return None if table is None else table.dense(rows)


def _given(probs: Tensor | None, stand_in: Tensor | None) -> Tensor:
    found = stand_in if probs is None else probs
    assert found is not None
    return found
