"""Mean, deviation and interval of a number over seeds.

Runs that differ in one thing, compared in pairs: on the same seeds and the same test samples.

Two intervals, as there are two kinds of luck: Student's t over seeds (the students' random
streams, and the splits where they are drawn), and the paired bootstrap over the groups of test
samples (`cosup.metrics.paired_comparison`).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosup.layout import Layout
from cosup.metrics import paired_comparison
from cosup.probabilities import ProbTable
from cosup.runs.directory import RunDirectory
from cosup.runs.summary import TestSplit

Z_975 = 1.959963985
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, sample deviation and 95 % interval (Student's t) of the values that are there.

    `{"mean", "deviation", "ci95", "values"}`; deviation and interval are None for fewer than two.
    """
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return {"mean": None, "deviation": None, "ci95": None, "values": list(values)}
    mean = statistics.fmean(found)
    if len(found) < 2:
        return {"mean": mean, "deviation": None, "ci95": None, "values": list(values)}
    deviation = statistics.stdev(found)
    half = t_975(len(found) - 1) * deviation / math.sqrt(len(found))
    return {
        "mean": mean,
        "deviation": deviation,
        "ci95": [mean - half, mean + half],
        "values": list(values),
    }


def t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table by its expansion in 1 / degrees
    (Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5)."""
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z, n = Z_975, degrees
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


METRIC = "student.accuracy"


@dataclass(frozen=True)
class Correct:
    """Where a run's student was right: correct [M] bool on the test samples, groups [M] int64."""

    correct: Tensor
    groups: Tensor

    @property
    def accuracy(self) -> float:
        """The share that is right, in [0, 1]."""
        return float(self.correct.double().mean())


def keep_correct(run: RunDirectory, test: TestSplit, student: ProbTable) -> None:
    """Keep, for later comparisons, on which test samples a run's student is right."""
    run.files.correct.write({"correct": test.correct(student), "groups": test.groups})


def load_correct(directory: Path) -> Correct:
    """What `keep_correct` kept in a run's directory."""
    tensors = Layout(directory).correct.read()
    return Correct(tensors["correct"], tensors["groups"])


def compare_pairs(runs: Mapping[str, Sequence[Correct]], seed: int) -> list[dict[str, Any]]:
    """Every pair of `runs` (by name, one `Correct` per seed, the same seeds in the same order).

    In each pair the later one is `first`, so that a list which starts with the baseline reads as
    gains over it. seed: of the bootstrap.
    """
    return [
        {"first": later, "second": earlier, **compare(runs[later], runs[earlier], seed)}
        for earlier, later in combinations(runs, 2)
    ]


def compare(first: Sequence[Correct], second: Sequence[Correct], seed: int) -> dict[str, Any]:
    """The accuracy of `first` less that of `second`, seed by seed.

    difference: the mean over seeds. deviation, ci95: over seeds, None for a single one (Student's
    t of the paired differences). ci95_samples: the paired bootstrap over test groups of that mean;
    a group is drawn with its samples of all seeds. Where splits are drawn, the test splits of two
    seeds are matched by place, as if they had no sample in common. better_on: seeds on which
    `first` is strictly better. Intervals are each pair's own, not corrected for the number of
    pairs.
    """
    by_seed = [one.accuracy - two.accuracy for one, two in zip(first, second, strict=True)]
    over = spread(by_seed)
    sampled = paired_comparison(
        torch.cat([one.correct for one in first]),
        torch.cat([two.correct for two in second]),
        groups=torch.cat([one.groups for one in first]),
        seed=seed,
    )
    return {
        "metric": METRIC,
        "difference": over["mean"],
        "deviation": over["deviation"],
        "ci95": over["ci95"],
        "ci95_samples": [sampled.low, sampled.high],
        "by_seed": by_seed,
        "better_on": sum(difference > 0 for difference in by_seed),
    }


def more_than_noise(pair: Mapping[str, Any]) -> bool:
    """Do all intervals of a comparison lie on one side of 0?"""
    intervals = [pair["ci95_samples"], *([pair["ci95"]] if pair["ci95"] else [])]
    return all(low > 0 for low, _ in intervals) or all(high < 0 for _, high in intervals)
