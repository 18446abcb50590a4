"""The posterior of the true class from the sources of a finished round.

Final labels are read from it (METHODS.md section 11), and sources are judged by it (section 10).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.assignment.fused import Fused
from cosup.evidence import Evidence, Scopes
from cosup.levels import Level, Stream, Task
from cosup.probabilities import ProbTable
from cosup.sources import Tally, others_speak

__all__ = [
    "SMALLEST",
    "Judge",
    "Posterior",
    "SourceSums",
    "find_judge",
    "fit_posterior",
    "fitted_posterior",
]

SMALLEST = 1e-9
"""Probabilities are clamped to this before taking logarithms."""


@dataclass(frozen=True)
class Posterior:
    """The posterior of the true class that labels are read from.

    fused: fitted to the sources. stream: the evidence that it reads. factor: [N, C] probabilities
    of the student that multiply what it says, or None.
    """

    fused: Fused
    stream: Stream
    factor: ProbTable | None = None

    def batches(self) -> Iterator[tuple[slice, Tensor, Evidence]]:
        """Yield (rows, posterior [n, C], evidence) in the order of the samples."""
        for rows, evidence in self.stream.items():
            found = self.fused.posterior(evidence)
            if self.factor is not None:
                own = self.factor.dense(rows).clamp_min(SMALLEST).log()
                found = (found.clamp_min(SMALLEST).log() + own).softmax(1)
            yield rows, found, evidence

    def beside(
        self, student: ProbTable, kept: Tensor, *, cross_fitted: bool
    ) -> Iterator[tuple[Tensor, Tensor, Evidence]]:
        """Yield (final posterior [n, C], student [n, C], evidence) in the order of the samples.

        student: its probabilities. If they are not cross-fitted, it repeats what it was taught, but
        it is a judge of the rest: samples without an answer, and those not in kept [N] bool.
        """
        for rows, found, evidence in self.batches():
            own = student.dense(rows)
            if not cross_fitted:
                answered = evidence.annotations.sum((1, 2)) > 0
                found = torch.where((answered & kept[rows])[:, None], found, own)
            yield found, own, evidence


def fit_posterior(
    task: Task,
    level: Level,
    student: ProbTable | None,
    seed: int,
    own: Assigner | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Posterior:
    """Return the posterior from the sources of a level and the student.

    student: cross-fitted probabilities of the samples, or None. It counts as one more source of
    `fused`; that of the rounds (`own`, with its state after the last one) is used as it is, if it
    has heard a student. Where all sources are soft, none but those that taught the student could
    tell how far to trust it: its probabilities then multiply the posterior without it as they are.
    """

    def stream_of(fused: Fused) -> Stream:
        heard = student if fused.student else None
        return Stream(level, heard, task.features, task.truth).restricted(fused.uses)

    def fit(fused: Fused) -> None:
        fused.fit(stream_of(fused), level.scopes, seed=seed, provenance=level.provenance)

    fused, is_factor = fitted_posterior(own, state, level.scopes, student is not None, fit)
    return Posterior(fused, stream_of(fused), student if is_factor else None)


def fitted_posterior(
    own: Assigner | None,
    state: Mapping[str, Tensor] | None,
    scopes: Scopes,
    has_student: bool,
    fit: Callable[[Fused], None],
) -> tuple[Fused, bool]:
    """Return the fitted posterior of `fit_posterior`, and whether the student multiplies it.

    has_student: whether there are cross-fitted probabilities. fit: fits a `Fused` to the sources,
    and to the student if its `student` is set.
    """
    wanted = own if isinstance(own, Fused) else Fused()
    state = dict(state or {}) if isinstance(own, Fused) else {}

    def fitted(hears: bool) -> Fused:
        fused = replace(wanted, student=hears)
        if state and bool(state["student"]) == hears:
            fused.load_state_dict(state)
        else:
            fit(fused)
        return fused

    found = fitted(has_student)
    if not has_student or not all(found.sources(scopes).soft):
        return found, False
    return fitted(False), True


@dataclass(frozen=True)
class Judge:
    """A fitted `Fused` that judges the sources of a round, and the evidence that it reads.

    guide: the student's probabilities that are judged; None: there is no student. speaks: whether
    the posterior reads them. own: whether the rounds themselves used it.
    """

    fused: Fused
    stream: Stream
    guide: ProbTable | None
    speaks: bool
    own: bool

    @property
    def scopes(self) -> Scopes:
        """Return the scopes of the teachers that speak."""
        return self.stream.level.scopes


def find_judge(
    task: Task,
    level: Level,
    assigner: Assigner,
    guide: ProbTable | None,
    last: ProbTable | None,
    seed: int,
    *,
    cross_fitted: bool,
) -> Judge:
    """Return the posterior of the last round, or one that is fitted to its level.

    assigner: of the last round, fitted. guide: the probabilities that it was guided by. last: of
    the last student. cross_fitted: whether the rounds' students are, so that they may speak.
    """
    if isinstance(assigner, Fused):
        stream = Stream(level, guide, task.features, task.truth).restricted(assigner.uses)
        speaks = guide is not None and assigner.student
        return Judge(assigner, stream, last if guide is None else guide, speaks, True)
    fused, heard = Fused(), last if cross_fitted else None
    stream = Stream(level, heard, task.features, task.truth).restricted(fused.uses)
    fused.fit(stream, level.scopes, seed=seed, provenance=level.provenance)
    return Judge(fused, stream, last, heard is not None, False)


@dataclass
class SourceSums:
    """What samples of student_train tell of S sources, the student last: sums over them.

    samples: how many. estimated, measured: by the posterior and by the true classes. answered: [S]
    samples with an answer. evidence: [T + 1] float64, nats for the labels by the T sources that the
    posterior reads, and by the student.
    """

    samples: int
    estimated: Tally
    measured: Tally
    answered: Tensor
    evidence: Tensor

    @staticmethod
    def zeros(sources: int, classes: int, regions: int, speakers: int) -> "SourceSums":
        """Return the sums over no sample. speakers: sources that the posterior reads."""
        size = sources, classes, regions
        nats = torch.zeros(speakers + 1, dtype=torch.float64)
        return SourceSums(0, Tally(*size), Tally(*size), torch.zeros(sources), nats)

    def add(
        self,
        fused: Fused,
        scopes: Scopes,
        evidence: Evidence,
        labels: Tensor,
        truth: Tensor,
        region: Tensor | None,
        block: Tensor,
        heard: Sequence[int],
        student: bool,
    ) -> Tensor:
        """Add n samples; return the posterior [n, C] of their true classes.

        labels: [n, S] answers (-1: none). truth: [n] true classes (-1: unknown). region: [n], or
        None for the most probable region of `fused`. block: [n]. heard: the sources that `fused`
        reads; with the student if `student`.
        """
        assigned = fused.assign(evidence, scopes)
        if region is None:
            region = fused.region_of(evidence)
        spoken = labels >= 0
        judged = spoken & others_speak(spoken, heard, student)
        self.estimated.add(labels.masked_fill(~judged, -1), assigned.targets, region, block)
        certain = torch.nn.functional.one_hot(truth.clamp_min(0), assigned.targets.shape[1])
        self.measured.add(labels.masked_fill((truth < 0)[:, None], -1), certain, region, block)
        self.answered += spoken.sum(0)
        assert assigned.nats is not None
        self.evidence += assigned.nats.clamp_min(0).sum(0, dtype=torch.float64)
        self.samples += len(labels)
        return assigned.targets

    def include(self, other: "SourceSums") -> None:
        """Add the sums over other samples of the same sources."""
        self.samples += other.samples
        self.estimated.include(other.estimated)
        self.measured.include(other.measured)
        self.answered += other.answered
        self.evidence += other.evidence

    def shares(self, names: Sequence[str]) -> dict[str, float]:
        """Return the part of each source in the evidence, by name; {} without any evidence."""
        total = float(self.evidence.sum())
        parts = (self.evidence / total).tolist() if total > 0 else []
        return dict(zip(names, parts, strict=bool(parts)))
