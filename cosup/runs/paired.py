"""Compare runs that differ in one setting, paired by seed and by test sample.

There are two sources of chance, and an interval for each: Student's t over seeds (random streams of
the students, and the splits if they are drawn), and the paired bootstrap over the groups of test
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
    """Which of the M test samples a student has right: correct [M] bool, groups [M] int64."""

    correct: Tensor
    groups: Tensor

    @property
    def accuracy(self) -> float:
        """Return the accuracy in [0, 1]."""
        return float(self.correct.double().mean())


def save_correct(run: RunDirectory, test: TestSplit, student: ProbTable) -> None:
    """Store which test samples the student of a run has right, for later comparisons."""
    run.files.correct.write({"correct": test.correct(student), "groups": test.groups})


def load_correct(directory: Path) -> Correct:
    """Load what `save_correct` stored in the directory of a run."""
    tensors = Layout(directory).correct.read()
    return Correct(tensors["correct"], tensors["groups"])


def compare_pairs(runs: Mapping[str, Sequence[Correct]], seed: int) -> list[dict[str, Any]]:
    """Compare every pair of `runs` (by name, one `Correct` per seed, the same seeds in order).

    In each pair the later one is `first`, so that a list which starts with the baseline reads as
    gains over it. seed: of the bootstrap.
    """
    return [
        {"first": later, "second": earlier, **compare_seeds(runs[later], runs[earlier], seed)}
        for earlier, later in combinations(runs, 2)
    ]


def compare_seeds(first: Sequence[Correct], second: Sequence[Correct], seed: int) -> dict[str, Any]:
    """Compare the accuracies of `first` and `second`, seed by seed.

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


def is_significant_pair(pair: Mapping[str, Any]) -> bool:
    """Return whether all intervals of a comparison exclude 0."""
    intervals = [pair["ci95_samples"], *([pair["ci95"]] if pair["ci95"] else [])]
    return all(low > 0 for low, _ in intervals) or all(high < 0 for _, high in intervals)
