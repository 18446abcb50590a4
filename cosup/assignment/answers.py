"""What sources say of samples, as `fused` reads it. METHODS.md section 8."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from cosup.assignment.em import answered
from cosup.assignment.parts import Parts, Whole
from cosup.assignment.regions import Regions
from cosup.evidence import Evidence, Scopes

T = TypeVar("T")

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


@dataclass(frozen=True)
class ReadPart(Generic[T]):
    """A function of the answers on a part of the samples, and the number of the part."""

    reader: Reader
    function: Callable[[Iterable[Answers], int], T]

    def __call__(self, batches: Iterable[Evidence], number: int) -> T:
        """Return its result."""
        return self.function((self.reader(evidence) for evidence in batches), number)


@dataclass(frozen=True)
class TakeFrom:
    """Takes the answers on some of the samples; see `Reading.some`."""

    places: Tensor | None
    sizes: Sequence[int]

    def __call__(self, answers: Iterable[Answers], number: int) -> Answers | None:
        """Return those of a part; None without any."""
        start, found = sum(self.sizes[:number]), []
        for batch in answers:
            if self.places is not None:
                inside = (self.places >= start) & (self.places < start + len(batch))
                rows = self.places[inside] - start
                start += len(batch)
                batch = batch if len(rows) == len(batch) else batch.take(rows)
            if len(batch):
                found.append(batch)
        return Answers.concat(found) if found else None


class Reading:
    """The answers on all samples, in parts; kept if they are few and read here in any case."""

    def __init__(self, parts: Parts, reader: Reader, samples: int, classes: int) -> None:
        self.parts, self.reader = parts, reader
        sources, soft = len(reader.soft), int(reader.soft.sum())
        values = samples * (sources * 2 + len(reader.regions) + classes * (soft + 1))
        self.kept: list[Answers] | None = None
        if isinstance(parts, Whole) and values <= CACHED:
            self.kept = [reader(evidence) for evidence in parts.batches]

    def each(self, function: Callable[[Iterable[Answers], int], T]) -> Iterator[T]:
        """Yield the result of each part, in order."""
        if self.kept is not None:
            yield function(self.kept, 0)
        else:
            yield from self.parts.each(ReadPart(self.reader, function))

    def some(self, places: Tensor | None, sizes: Sequence[int]) -> Answers:
        """Return the answers on the samples at these places, ascending; None: on all. sizes:
        samples of each part."""
        found = self.each(TakeFrom(places, sizes))
        return Answers.concat([one for one in found if one is not None])


@dataclass(frozen=True)
class Survey:
    """What one look at all samples tells. sizes: samples of each part. hard: [T] bool, the sources
    whose every answer gives one class probability 1. student: whether there is a student."""

    sizes: tuple[int, ...]
    classes: int
    hard: Tensor
    student: bool

    @property
    def samples(self) -> int:
        """Return the number of all samples."""
        return sum(self.sizes)

    @staticmethod
    def of(parts: Parts) -> "Survey | None":
        """Look at all samples; None if there are none."""
        found = list(parts.each(survey_part))
        some = [one for one in found if one is not None]
        if not some:
            return None
        return Survey(
            tuple(0 if one is None else one.samples for one in found),
            some[0].classes,
            torch.stack([one.hard for one in some]).all(0),
            all(one.student for one in some),
        )

    def reader(self, regions: Regions, scopes: Scopes, student: bool) -> Reader:
        """Return the reader of these sources.

        A specialist is read by its class if the regions do not tell where its scope lies: its
        confusion matrix then says what it knows.
        """
        by_class = self.hard.cpu() | (scopes.restricted & ~regions.known)
        return Reader(~by_class, regions, student and self.student)


def survey_part(batches: Iterable[Evidence], number: int = 0) -> Survey | None:
    """Look at the samples of a part; None if there are none."""
    samples, classes, student = 0, 0, True
    hard: Tensor | None = None
    for evidence in batches:
        confidence = evidence.annotations.amax(2)
        certain = ((confidence >= 1) | (confidence <= 0)).all(0)
        hard = certain if hard is None else hard & certain
        samples += len(evidence)
        classes = evidence.annotations.shape[2]
        student &= evidence.has_student
    return None if hard is None or not samples else Survey((samples,), classes, hard, student)
