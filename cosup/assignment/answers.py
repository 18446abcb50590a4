"""What sources say of samples, as `fused` reads it. METHODS.md section 8."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.em import answered
from cosup.assignment.regions import Regions
from cosup.evidence import Batches, Evidence, Scopes

SOFTEST = 1e-6
"""Probabilities of soft sources and the student are clamped to this."""
CACHED = 2**26
"""Most values that are kept in memory between iterations; more are read again each time."""


@dataclass(frozen=True)
class Answers:
    """What T sources and the student say of n samples.

    labels: [n, T] classes (-1: no answer). regions: [n, R] probabilities. weights: [n, T], how far
    a sample lies in a source's scope, 0 where the source abstains. soft: [n, S, C]
    log-probabilities of the soft sources. student: [n, C], likewise, or None without a student.
    """

    labels: Tensor
    regions: Tensor
    weights: Tensor
    soft: Tensor
    student: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Answers":
        """Return those on some of the samples."""
        student = None if self.student is None else self.student[rows]
        return Answers(
            self.labels[rows], self.regions[rows], self.weights[rows], self.soft[rows], student
        )

    @staticmethod
    def concat(parts: list["Answers"]) -> "Answers":
        """Return those on the samples of all parts."""
        students = [part.student for part in parts if part.student is not None]
        return Answers(
            torch.cat([part.labels for part in parts]),
            torch.cat([part.regions for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.soft for part in parts]),
            torch.cat(students) if students else None,
        )


@dataclass(frozen=True)
class Reader:
    """Reads answers from evidence.

    soft: [T] bool, the sources that are read by their probabilities; of the others only the class
    is read. student: whether the student is a source.
    """

    soft: Tensor
    regions: Regions
    student: bool

    def __call__(self, evidence: Evidence) -> Answers:
        """Return the answers on a batch."""
        annotations = evidence.annotations
        labels, regions = answered(annotations), self.regions.of(evidence)
        spoken, soft = (labels >= 0).to(regions), self.soft.to(regions.device)
        # The others' confusion matrices say where they err, so all of their answers count.
        weights = torch.where(soft, self.regions.weights(regions) * spoken, spoken)
        probs = annotations[:, soft].clamp_min(SOFTEST).log()
        student = evidence.student_probs.clamp_min(SOFTEST).log() if self.student else None
        return Answers(labels, regions, weights, probs, student)

    def __hash__(self) -> int:
        return id(self)


class Reading:
    """The answers on all samples, in batches; kept in memory if they are few."""

    def __init__(self, batches: Batches, reader: Reader, samples: int, classes: int) -> None:
        self.batches, self.reader = batches, reader
        sources, soft = len(reader.soft), int(reader.soft.sum())
        values = samples * (sources * 2 + len(reader.regions) + classes * (soft + 1))
        self.kept = [reader(evidence) for evidence in batches] if values <= CACHED else None

    def __iter__(self) -> Iterator[Answers]:
        if self.kept is not None:
            yield from self.kept
        else:
            yield from (self.reader(evidence) for evidence in self.batches)


@dataclass(frozen=True)
class Survey:
    """What one look at all samples tells. samples: their number. hard: [T] bool, the sources whose
    every answer gives one class probability 1. student: whether there is a student."""

    samples: int
    classes: int
    hard: Tensor
    student: bool

    @staticmethod
    def of(batches: Batches) -> "Survey | None":
        """Look at all samples; None if there are none."""
        samples, classes, student = 0, 0, True
        hard: Tensor | None = None
        for evidence in batches:
            confidence = evidence.annotations.amax(2)
            certain = ((confidence >= 1) | (confidence <= 0)).all(0)
            hard = certain if hard is None else hard & certain
            samples += len(evidence)
            classes = evidence.annotations.shape[2]
            student &= evidence.has_student
        return None if hard is None or not samples else Survey(samples, classes, hard, student)

    def reader(self, regions: Regions, scopes: Scopes, student: bool) -> Reader:
        """Return the reader of these sources.

        A specialist is read by its class if the regions do not tell where its scope lies: its
        confusion matrix then says what it knows.
        """
        by_class = self.hard.cpu() | (scopes.restricted & ~regions.known)
        return Reader(~by_class, regions, student and self.student)
