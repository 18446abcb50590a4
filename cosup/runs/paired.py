"""Mean, deviation and interval of a number over seeds.

Runs that differ in one thing, compared in pairs: on the same seeds and the same test samples.

Two intervals, as there are two kinds of luck: Student's t over seeds (the students' random
streams, and the splits where they are drawn), and the paired bootstrap over the groups of test
samples (`cosup.metrics.paired_comparison`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosup.layout import Layout
from cosup.metrics import paired_comparison, spread
from cosup.probabilities import ProbTable
from cosup.runs.directory import RunDirectory
from cosup.runs.summary import TestSplit

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
