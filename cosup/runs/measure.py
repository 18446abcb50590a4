"""Measure each teacher alone, where it answers, and choose the best one.

An abstention is no error: the accuracy of a teacher is over the samples that it answers, and its
coverage, the share of these, stands beside it. METHODS.md section 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosup.metrics import lower_bound, shares
from cosup.probabilities import ProbTable
from cosup.runs.summary import TestSplit
from cosup.sources import ENOUGH
from cosup.teachers.base import Teacher

__all__ = ["COMPARED", "Score", "TeacherRecord", "best_teacher", "score", "teacher_records"]

COMPARED = "accuracy_where_answered"
"""What the summary calls the measure by which teachers are compared."""


@dataclass(frozen=True)
class Score:
    """How many of some samples with a known label a teacher answers, and has right.

    right: the expected number, where the labels are estimated.
    """

    right: float
    answered: int
    samples: int

    @property
    def accuracy(self) -> float | None:
        """Return the share of the answers that are right; None without an answer."""
        return self.right / self.answered if self.answered else None

    @property
    def coverage(self) -> float:
        """Return the share of the samples that are answered."""
        return self.answered / self.samples if self.samples else 0.0


@dataclass(frozen=True)
class TeacherRecord:
    """A teacher as the summary lists it.

    accuracy, accuracy_ci95: on the test samples that it answers, and the 95 % interval (bootstrap
    over groups); None if it answers none. coverage: the share of the test samples that it answers;
    None without test samples. chosen_by, chosen_coverage: accuracy, measured or estimated, and
    coverage on the samples by which the best teacher is chosen (`MeasuredTeachers.chosen_on`); None
    if it cannot be measured. simulated: made from the true labels.
    outside: the mean probability that it gives to what is not in its scope; None if it knows
    nothing else. temperature: by which it is calibrated; None if it is not.
    """

    name: str
    level: int
    steps: int
    accuracy: float | None
    accuracy_ci95: list[float] | None
    coverage: float | None
    chosen_by: float | None
    chosen_coverage: float | None
    simulated: bool = False
    outside: float | None = None
    temperature: float | None = None


def score(probs: ProbTable, labels: Tensor) -> Score:
    """Count the answers to samples with a known label [N] (-1: unknown)."""
    label, confidence = probs.top()
    known = labels >= 0
    answered = (confidence > 0) & known
    right = answered & (label == labels)
    return Score(int(right.sum()), int(answered.sum()), int(known.sum()))


def best_teacher(scores: Mapping[str, Score]) -> str:
    """Return the name of the teacher that is the best one alone; the first of equal ones.

    It is the most accurate one where it answers, among those that answer at least half of the
    samples (among all, if none does). Compared is the lower end of the 95 % interval of the
    accuracy, so that few right answers do not beat many.
    """

    def rank(name: str) -> tuple[bool, float]:
        found = scores[name]
        return found.coverage >= ENOUGH, lower_bound(found.right, found.answered)

    return max(scores, key=rank)


def teacher_records(
    teachers: Mapping[str, Teacher],
    answers: Mapping[str, ProbTable],
    test: TestSplit,
    chosen: Mapping[str, Score],
    seed: int,
    outside: Mapping[str, float] | None = None,
) -> tuple[TeacherRecord, ...]:
    """Return the record of each teacher.

    answers: probabilities of the test samples. chosen: the scores by which the best teacher is
    chosen. seed: of the bootstrap. outside: the mass outside, of those that have some.
    """
    right = torch.stack([test.correct(answers[name]) for name in teachers], dim=1)
    counted = torch.stack([test.answered(answers[name]) for name in teachers], dim=1)
    found = shares(right, test.groups, seed=seed, counted=counted, few=test.few)
    return tuple(
        TeacherRecord(
            name=name,
            level=teacher.spec.level,
            steps=teacher.steps,
            accuracy=_number(found.mean[place]),
            accuracy_ci95=_interval(found.low[place], found.high[place]),
            coverage=float(counted[:, place].double().mean()) if len(test) else None,
            chosen_by=chosen[name].accuracy,
            chosen_coverage=chosen[name].coverage if chosen[name].samples else None,
            simulated=teacher.spec.simulated,
            outside=(outside or {}).get(name),
            temperature=None if teacher.spec.setup.calibrate is None else teacher.temperature,
        )
        for place, (name, teacher) in enumerate(teachers.items())
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(low: float, high: float) -> list[float] | None:
    return None if np.isnan(low) else [float(low), float(high)]
