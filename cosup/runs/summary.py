"""`summary.json`: the numbers of a run, each from the records of its finished stages."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosup.metrics import expected_calibration_error, pgr, pgr_interval
from cosup.probabilities import ProbTable

Numbers = dict[str, Any]


@dataclass(frozen=True)
class TestSplit:
    """The samples that measure: labels [M], domains [M], groups [M] resampled together."""

    labels: Tensor
    domains: Tensor
    groups: Tensor
    classes: tuple[str, ...]
    domain_names: tuple[str, ...]

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
    """The student's accuracy, its PGR with a 95 % interval, and its accuracy by domain and class.

    The interval is a paired bootstrap over the test split's groups. PGR is None without a ceiling,
    or where the ceiling isn't above the floor.
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
        "pgr": value,
        "pgr_ci95": interval,
        "per_domain": _by(right, test.domains, test.domain_names),
        "per_class": _by(right, test.labels, test.classes),
        "calibration_error": expected_calibration_error(student.dense(), test.labels),
    }


def control_numbers(
    test: TestSplit, controls: Mapping[str, ProbTable], floor: ProbTable
) -> dict[str, Numbers]:
    """Each control's test accuracy and PGR, against the same floor and ceiling."""
    ceiling = test.accuracy(controls["ceiling"]) if "ceiling" in controls else None
    bottom = test.accuracy(floor)
    numbers = {}
    for name, probs in controls.items():
        accuracy = test.accuracy(probs)
        gap = None if ceiling is None else pgr(bottom, accuracy, ceiling)
        numbers[name] = {"accuracy": accuracy, "pgr": gap}
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


def _mean(right: Tensor) -> float:
    return float(right.double().mean())


def _by(right: Tensor, index: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """Accuracy per class or domain; None for one without a test sample."""
    size = len(names)
    total = torch.bincount(index, minlength=size)
    hits = torch.bincount(index, weights=right.double(), minlength=size)
    return {name: float(hits[i] / total[i]) if total[i] else None for i, name in enumerate(names)}
