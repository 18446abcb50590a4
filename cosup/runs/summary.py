"""`summary.json`: the numbers of a run, each from the records of its finished stages."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosup.metrics import expected_calibration_error, paired_comparison, pgr, pgr_interval
from cosup.probabilities import ProbTable

Numbers = dict[str, Any]


@dataclass(frozen=True)
class TestSplit:
    """The samples that measure: labels [M], domains [M], groups [M] resampled together.

    kinds: [M] indices into `classes`, where the labels are something else: the queries of episodes,
    whose labels are ways.
    """

    labels: Tensor
    domains: Tensor
    groups: Tensor
    classes: tuple[str, ...]
    domain_names: tuple[str, ...]
    kinds: Tensor | None = None

    @property
    def answers(self) -> int:
        """The number of possible answers: classes, or the ways of an episode."""
        return len(self.classes) if self.kinds is None else int(self.labels.max()) + 1

    def correct(self, probs: ProbTable) -> Tensor:
        """[M] bool: is the most probable class the true one? An abstention is not."""
        label, confidence = probs.top()
        return (label == self.labels) & (confidence > 0)

    def accuracy(self, probs: ProbTable) -> float:
        """The share that is right, in [0, 1]."""
        return float(self.correct(probs).double().mean())


def student_numbers(
    test: TestSplit, student: ProbTable, floor: ProbTable, ceiling: ProbTable | None, seed: int
) -> Numbers:
    """The student's accuracy and its PGR with 95 % intervals, and its accuracy by domain and class.

    The intervals are bootstraps (PGR's a paired one) over the test split's groups. PGR is None
    without a ceiling, or where the ceiling isn't above the floor.
    """
    right = test.correct(student)
    value: float | None = None
    interval: list[float] | None = None
    if ceiling is not None:
        bottom, top = test.correct(floor), test.correct(ceiling)
        value = pgr(_mean(bottom), _mean(right), _mean(top))
        if value is not None:
            low_high = pgr_interval(bottom, right, top, groups=test.groups, seed=seed)
            interval = None if low_high is None else [float(bound) for bound in low_high]
    return {
        "accuracy": _mean(right),
        "accuracy_ci95": _interval(test, right, seed),
        "pgr": value,
        "pgr_ci95": interval,
        "per_domain": _by(right, test.domains, test.domain_names),
        "per_class": _by(right, _kinds(test), test.classes),
        "calibration_error": expected_calibration_error(student.dense(), test.labels),
    }


def control_numbers(
    test: TestSplit, controls: Mapping[str, ProbTable], floor: ProbTable, seed: int
) -> dict[str, Numbers]:
    """Each control's test accuracy, its interval and PGR, against the same floor and ceiling."""
    ceiling = test.accuracy(controls["ceiling"]) if "ceiling" in controls else None
    bottom = test.accuracy(floor)
    numbers = {}
    for name, probs in controls.items():
        accuracy = test.accuracy(probs)
        gap = None if ceiling is None else pgr(bottom, accuracy, ceiling)
        interval = _interval(test, test.correct(probs), seed)
        numbers[name] = {"accuracy": accuracy, "accuracy_ci95": interval, "pgr": gap}
    return numbers


def sum_seconds(stages: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Seconds of work per part, summed over the stages (and over resumed runs)."""
    parts = ("data", "teachers", "annotate", "features", "rounds", "controls")
    totals = dict.fromkeys(parts, 0.0)
    for part, spent in stages:
        totals[part] += spent
    return {**{k: round(v, 2) for k, v in totals.items()}, "total": round(sum(totals.values()), 2)}


def peak_rss_mb() -> float:
    """The most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _interval(test: TestSplit, right: Tensor, seed: int) -> list[float]:
    """95 % interval of an accuracy: bootstrap over groups (scans, episodes)."""
    found = paired_comparison(right, torch.zeros_like(right), test.groups, seed=seed)
    return [found.low, found.high]


def _kinds(test: TestSplit) -> Tensor:
    return test.labels if test.kinds is None else test.kinds


def _mean(right: Tensor) -> float:
    return float(right.double().mean())


def _by(right: Tensor, index: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """Accuracy per class or domain; None for one without a test sample."""
    size = len(names)
    total = torch.bincount(index, minlength=size)
    hits = torch.bincount(index, weights=right.double(), minlength=size)
    return {name: float(hits[i] / total[i]) if total[i] else None for i, name in enumerate(names)}
