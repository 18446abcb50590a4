"""Compute the numbers of `summary.json` from the records of finished stages."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosup.controls import NO_TEST
from cosup.metrics import (
    expected_calibration_error,
    no_gap,
    paired_comparison,
    pgr,
    pgr_interval,
    wilson,
)
from cosup.probabilities import ProbTable

Numbers = dict[str, Any]

NO_CEILING = "the control 'ceiling' was not run"
NO_TEAM = "the control 'team' was not run"


@dataclass(frozen=True)
class TestSplit:
    """The test samples: labels [M], domains [M], and groups [M] that are resampled together.

    kinds: [M] indices into `classes` for the queries of episodes, whose labels are ways; else None.
    few: they are images drawn at random for a review, so few that intervals of accuracies are
    Wilson's.
    """

    labels: Tensor
    domains: Tensor
    groups: Tensor
    classes: tuple[str, ...]
    domain_names: tuple[str, ...]
    kinds: Tensor | None = None
    few: bool = False

    @property
    def answers(self) -> int:
        """Return the number of possible answers: classes, or the ways of an episode."""
        return len(self.classes) if self.kinds is None else int(self.labels.max()) + 1

    def correct(self, probs: ProbTable) -> Tensor:
        """Return [M] bool: whether the most probable class is the true one (no abstention)."""
        label, confidence = probs.top()
        return (label == self.labels) & (confidence > 0)

    def answered(self, probs: ProbTable) -> Tensor:
        """Return [M] bool: whether there is an answer (no abstention)."""
        return probs.top()[1] > 0

    def __len__(self) -> int:
        return len(self.labels)

    def domains_in(self, names: Sequence[str]) -> Tensor:
        """Return the domains [M] as indices of these names; -1 for one that is not among them."""
        place = {name: number for number, name in enumerate(names)}
        codes = torch.tensor([place.get(name, -1) for name in self.domain_names])
        return codes[self.domains]

    def accuracy(self, probs: ProbTable) -> float | None:
        """Return the accuracy in [0, 1] over all samples; None if there are none."""
        return float(self.correct(probs).double().mean()) if len(self) else None


def student_numbers(
    test: TestSplit,
    student: ProbTable,
    floor: ProbTable,
    ceiling: ProbTable | None,
    seed: int,
    team: ProbTable | None = None,
    absent: Mapping[str, str] | None = None,
) -> Numbers:
    """Return the student's accuracy and PGR with 95 % intervals, and its accuracy by domain, class.

    The intervals are bootstraps over the groups of the test samples, for PGR a paired one. PGR is
    that of the samples that the floor answers, as an abstention is no error. `pgr_team` is the PGR
    with the team of teachers as the floor. A PGR that cannot be measured is None, with the reason
    (`cosup.metrics.no_gap`). Without test samples all of them are None. absent: why controls are
    left out.
    """
    if not len(test):
        return _unmeasured(test)
    right, reasons = test.correct(student), absent or {}
    found = _recovered(test, floor, right, ceiling, seed)
    if ceiling is None and "ceiling" in reasons:
        found = {**found, "reason": reasons["ceiling"]}
    team_found: Numbers = {"value": None, "ci95": None, "reason": NO_TEAM}
    if team is not None:
        team_found = _recovered(test, team, right, ceiling, seed, "the team")
    return {
        "accuracy": _mean(right),
        "accuracy_ci95": _interval(test, right, seed),
        "pgr": found["value"],
        "pgr_ci95": found["ci95"],
        "pgr_reason": found["reason"],
        "pgr_team": team_found,
        "per_domain": _by(right, test.domains, test.domain_names),
        "per_class": _by(right, _kinds(test), test.classes),
        "calibration_error": expected_calibration_error(student.dense(), test.labels),
    }


def _unmeasured(test: TestSplit) -> Numbers:
    """Return the student's numbers where there are no test samples."""
    single = ("accuracy", "accuracy_ci95", "pgr", "pgr_ci95", "calibration_error")
    return {
        **dict.fromkeys(single),
        "pgr_reason": NO_TEST,
        "pgr_team": {"value": None, "ci95": None, "reason": NO_TEST},
        "per_domain": dict.fromkeys(test.domain_names),
        "per_class": dict.fromkeys(test.classes),
    }


def control_numbers(
    test: TestSplit, controls: Mapping[str, ProbTable], floor: ProbTable, seed: int
) -> dict[str, Numbers]:
    """Return each control's test accuracy and PGR with their intervals, as for the student."""
    numbers, ceiling = {}, controls.get("ceiling")
    for name, probs in controls.items():
        right = test.correct(probs)
        found = _recovered(test, floor, right, ceiling, seed)
        numbers[name] = {
            "accuracy": _mean(right),
            "accuracy_ci95": _interval(test, right, seed),
            "pgr": found["value"],
            "pgr_ci95": found["ci95"],
        }
    return numbers


def _recovered(
    test: TestSplit,
    floor: ProbTable,
    right: Tensor,
    ceiling: ProbTable | None,
    seed: int,
    name: str = "the floor",
) -> Numbers:
    """Return a PGR with its interval, or the reason why there is none. name: of the floor."""
    if ceiling is None:
        return {"value": None, "ci95": None, "reason": NO_CEILING}
    answered = test.answered(floor)
    if not bool(answered.any()):
        return {"value": None, "ci95": None, "reason": f"{name} answers no test sample"}
    three = (test.correct(floor), right, test.correct(ceiling))
    bottom, own, top = (part[answered] for part in three)
    groups = test.groups[answered]
    reason = no_gap(bottom, top, groups, seed)
    if reason is not None:
        return {"value": None, "ci95": None, "reason": reason.replace("the floor", name)}
    interval = pgr_interval(bottom, own, top, groups=groups, seed=seed)
    assert interval is not None  # the same draws have the same gaps
    value = pgr(_mean(bottom), _mean(own), _mean(top))
    return {"value": value, "ci95": list(interval), "reason": None}


def sum_seconds(stages: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the seconds per part, summed over stages and resumptions."""
    parts = ("data", "teachers", "annotate", "features", "rounds", "controls")
    totals = dict.fromkeys(parts, 0.0)
    for part, spent in stages:
        totals[part] += spent
    return {**{k: round(v, 2) for k, v in totals.items()}, "total": round(sum(totals.values()), 2)}


def peak_rss_mb() -> float:
    """Return the peak memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _interval(test: TestSplit, right: Tensor, seed: int) -> list[float]:
    """Return the 95 % interval of an accuracy: a bootstrap over groups; Wilson's of few images."""
    if test.few:
        return list(wilson(int(right.sum()), len(right)))
    found = paired_comparison(right, torch.zeros_like(right), test.groups, seed=seed)
    return [found.low, found.high]


def _kinds(test: TestSplit) -> Tensor:
    return test.labels if test.kinds is None else test.kinds


def _mean(right: Tensor) -> float:
    return float(right.double().mean())


def _by(right: Tensor, index: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """Return the accuracy per class or domain; None for one without a test sample."""
    size = len(names)
    total = torch.bincount(index, minlength=size)
    hits = torch.bincount(index, weights=right.double(), minlength=size)
    return {name: float(hits[i] / total[i]) if total[i] else None for i, name in enumerate(names)}
