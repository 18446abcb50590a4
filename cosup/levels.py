"""Data of a round: the teachers and annotations of a level, streamed as evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from cosup.evidence import Assigned, Evidence, Scopes, Truth, mean_annotation
from cosup.probabilities import ProbTable
from cosup.protocols import Inputs, TeacherNetworks, TestInputs

MAX_ELEMENTS = 2**23
"""Annotation values [n, T, C] in a batch: 32 MiB in float32, a few times that in use."""


class LevelAnnotations(Protocol):
    """Annotations of N samples by the teachers of a level, in memory or stored."""

    def __len__(self) -> int: ...

    def iter_dense(self, max_elements: int = ...) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, annotations [n, T, C] float32) in the order of the samples."""
        ...


@dataclass(frozen=True)
class ArrayAnnotations:
    """Annotations [N, T, C] in memory."""

    annotations: Tensor

    def __len__(self) -> int:
        return self.annotations.shape[0]

    def iter_dense(self, max_elements: int = MAX_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """Yield batches of at most `max_elements` values."""
        _, teachers, classes = self.annotations.shape
        step = max(1, max_elements // (teachers * classes))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self.annotations[rows]


@dataclass(frozen=True)
class JoinedAnnotations:
    """Annotations of several sets of samples by the same teachers, one set after the other."""

    parts: Sequence[LevelAnnotations]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def iter_dense(self, max_elements: int = MAX_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """Yield batches of at most `max_elements` values, each of one set."""
        first = 0
        for part in self.parts:
            for rows, dense in part.iter_dense(max_elements):
                yield slice(first + rows.start, first + rows.stop), dense
            first += len(part)


@dataclass(frozen=True)
class Level:
    """One level of the hierarchy of teachers.

    provenance: features [M, D] of the teachers' own training inputs and membership [M, T], or
    None if unknown. live: the teachers as networks, if the student's training runs them.
    """

    index: int
    scopes: Scopes
    annotations: LevelAnnotations
    provenance: tuple[Tensor, Tensor] | None = None
    live: TeacherNetworks | None = None


@dataclass(frozen=True)
class Labelled:
    """Labelled samples from which the student learns beside the annotations.

    joined: inputs of the N samples of student_train, then of these M. labels: [M] int64, -1 where
    unknown.
    """

    joined: Inputs
    labels: Tensor


@dataclass(frozen=True)
class Task:
    """The training samples of the student, and the samples that evaluate it.

    inputs: features or images of the N samples of student_train. test_inputs: of the test split,
    and of shifted test sets after it (`TestSets`).
    truth: of student_train, for oracle routing, the ceiling and analysis only. features: [N, D]
    float16 or float32, memory-mapped or not, for assigners that need them. labels: [N] as given to
    trainers (noise included, -1 unknown), for settings in which the student may use them.
    validation_inputs: of the validation split, for choosing settings. reviewed: [N] classes that a
    person gave (-1 unknown), which stand in place of annotations; None without any. labelled: what
    the student learns from beside them, or None.
    """

    levels: tuple[Level, ...]
    inputs: Inputs
    test_inputs: TestInputs
    truth: Truth
    num_classes: int
    features: Tensor | None = None
    labels: Tensor | None = None
    validation_inputs: TestInputs | None = None
    reviewed: Tensor | None = None
    labelled: Labelled | None = None

    def with_reviewed(self, targets: ProbTable, weights: Tensor) -> tuple[ProbTable, Tensor]:
        """Return targets and weights [N] with reviewed classes in place of annotations, each with
        the weight 1."""
        if self.reviewed is None or not bool((self.reviewed >= 0).any()):
            return targets, weights
        rows = (self.reviewed >= 0).nonzero()[:, 0]
        return targets.with_labels(rows, self.reviewed[rows]), weights.index_fill(0, rows, 1.0)

    def mixture(self, weights: Tensor) -> Tensor:
        """Return the weights [N, T] by which the teachers annotate augmented images: 0 where a
        reviewed class stands in place of annotations."""
        if self.reviewed is None:
            return weights
        return weights.masked_fill((self.reviewed >= 0)[:, None], 0.0)


@dataclass(frozen=True)
class Stream:
    """Evidence on all samples of a level, one dense batch at a time.

    first: the position of the first sample, if these are some of all samples.
    """

    level: Level
    student: ProbTable | None
    features: Tensor | None
    truth: Truth | None
    coarse: ProbTable | None = None
    global_probs: ProbTable | None = None
    local_probs: ProbTable | None = None
    labels: Tensor | None = None
    domains: Tensor | None = None
    first: int = 0

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
        """Yield (rows, evidence) in the order of the samples."""
        for rows, annotations in self.level.annotations.iter_dense(MAX_ELEMENTS):
            # Without a student, and above the coarsest level, the mean annotation replaces it.
            first = self.student is None or self.coarse is None
            mean = mean_annotation(annotations) if first else None
            yield (
                rows,
                Evidence(
                    student_probs=_either(_dense(self.student, rows), mean),
                    annotations=annotations,
                    features=None if self.features is None else self.features[rows].float(),
                    truth=None
                    if self.truth is None
                    else Truth(self.truth.labels[rows], self.truth.domains[rows]),
                    coarse_probs=_either(_dense(self.coarse, rows), mean),
                    global_probs=_dense(self.global_probs, rows),
                    local_probs=_dense(self.local_probs, rows),
                    labels=None if self.labels is None else self.labels[rows],
                    index=torch.arange(len(annotations)) + (self.first + rows.start),
                    domains=None if self.domains is None else self.domains[rows],
                    has_student=self.student is not None,
                ),
            )

    def restricted(self, needs: frozenset[str]) -> "Stream":
        """Return the stream without the truth, labels and features that are not needed.

        Only the domains are taken from the truth where they alone are needed.
        """
        domains = None if self.truth is None else self.truth.domains
        return replace(
            self,
            features=self.features if needs & {"features", "provenance"} else None,
            truth=self.truth if "truth" in needs else None,
            labels=self.labels if "labels" in needs else None,
            domains=domains if "domains" in needs else None,
        )


@dataclass(frozen=True)
class Assignment:
    """Decision of an assigner on all N samples of a level.

    weights: [N, T] of the teachers. targets: the assigned annotations (an all-zero row where all
    assigned teachers abstain). mixed: whether they are the mixture of annotations by weights.
    nats: [N, T + 1], loss_weights: [N], as in `Assigned`. soft: the assigned annotations before
    they were hardened; None if they are the targets.
    """

    weights: Tensor
    targets: ProbTable
    mixed: bool = True
    nats: Tensor | None = None
    loss_weights: Tensor | None = None
    soft: ProbTable | None = None

    @property
    def annotations(self) -> ProbTable:
        """Return the assigned annotations before they were hardened."""
        return self.targets if self.soft is None else self.soft

    def weighed(self, keep: Tensor) -> Tensor:
        """Return the weight [N] of each sample in the loss: 0 unless kept [N] bool."""
        return keep.float() if self.loss_weights is None else keep * self.loss_weights

    def batch(self, rows: slice, evidence: Evidence) -> Assigned:
        """Return the decision on a batch, for the filters.

        A mixture is computed again from the evidence: the annotations kept here are rounded.
        """
        if self.mixed:
            return Assigned.mixture(evidence.annotations, self.weights[rows])
        nats = None if self.nats is None else self.nats[rows]
        return Assigned(self.weights[rows], self.annotations.dense(rows), nats)


def _dense(table: ProbTable | None, rows: slice) -> Tensor | None:
    return None if table is None else table.dense(rows)


def _either(probs: Tensor | None, default: Tensor | None) -> Tensor:
    found = default if probs is None else probs
    assert found is not None
    return found
