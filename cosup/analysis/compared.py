"""The answers of compared runs to their test samples, and numbers with intervals from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.analysis.arrays import Bools, Codes, Doubles, codes
from cosup.analysis.comparable import Entry, Paired, labels, order_of, pair_seeds
from cosup.analysis.records import Run
from cosup.errors import UserError
from cosup.metrics import over_seeds, resampled_means
from cosup.metrics.intervals import LEVEL
from cosup.seeds import seed_for

__all__ = ["NOT_KNOWN", "Compared", "Measured", "OneSeed", "accuracy_of", "less", "pgr_of"]

Scored = Callable[[Doubles], Doubles]
"""A number [n] of mean scores [n, 4 K] of K runs (`_scores`)."""
TAIL = (100 - LEVEL) / 2


@dataclass(frozen=True)
class OneSeed:
    """The answers of K runs of one seed to M test samples.

    label: [M, K] int64 indices of the answers (-1: abstains). correct: [M, K] bool. scores:
    [M, 4 K] of each run, see `_scores`.
    """

    test: pd.DataFrame
    label: Codes
    correct: Bools
    scores: Doubles


@dataclass(frozen=True)
class Measured:
    """A number: its mean over the seeds, sample deviation, 95 % interval, and p-value of being 0.

    nan where it has none: no deviation and p-value of a single seed, no PGR without a gap.
    """

    value: float
    deviation: float
    low: float
    high: float
    p_value: float


NOT_KNOWN = Measured(*[float("nan")] * 5)


class Compared:
    """The answers of K entries for S seeds.

    parts: [S] the answers of each seed. same_test: whether all seeds have the same test samples.
    by_seed: [S, 4 K] the means of the scores. draws: [S, D, 4 K] these means in D bootstrap draws
    of groups of test samples: the same ones for all seeds, if they have the same.

    Raises `UserError` as `compare` does.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.names = labels(entries)
        self.paired = pair_seeds(entries)
        rows = self.paired.runs
        self.entries = entries
        self.answers = list(dict.fromkeys(name for row in rows for r in row for name in r.answers))
        orders = _same_samples(self.paired)
        self.same_test = orders is not None
        self.parts = [
            _one_seed(row, names, self.answers, None if orders is None else orders[place])
            for place, (row, names) in enumerate(zip(rows, self._names_by_seed(), strict=True))
        ]
        self.by_seed = np.stack([part.scores.mean(0) for part in self.parts])
        self.draws = self._draw()

    def _draw(self) -> Doubles:
        seed = seed_for(int(self.paired.runs[0][0].config["run"]["seed"]), "bootstrap")
        draws = [
            resampled_means(
                part.scores,
                part.test["group"].to_numpy(),
                seed=seed if self.same_test else seed_for(seed, place),
            )
            for place, part in enumerate(self.parts)
        ]
        return np.stack(draws)

    def _names_by_seed(self) -> list[list[str]]:
        """Return for each seed the names that errors use."""
        seeds = self.paired.seeds
        if seeds is None:
            return [self.names]
        return [[f"{name} (seed {seed})" for name in self.names] for seed in seeds]

    @property
    def samples(self) -> list[int]:
        """The number of test samples of each seed."""
        return [len(part.test) for part in self.parts]

    @property
    def several(self) -> bool:
        """Whether there are several seeds."""
        return len(self.parts) > 1

    def runs_of(self, place: int) -> list[Run]:
        """Return the runs of an entry, in the order of the seeds."""
        return [row[place] for row in self.paired.runs]

    @cached_property
    def pooled(self) -> pd.DataFrame:
        """The test samples of all seeds, one seed after the other, with a column `seed`."""
        tests = [
            part.test.assign(seed=int(row[0].config["run"]["seed"]))
            for part, row in zip(self.parts, self.paired.runs, strict=True)
        ]
        whole = pd.concat(tests, ignore_index=True)
        for column in ("true_label", "domain"):  # seeds may lack one of the categories
            names = [test[column].cat.categories for test in tests]
            dtype = pd.CategoricalDtype(list(dict.fromkeys(n for one in names for n in one)))
            whole[column] = whole[column].astype(dtype)
        return whole

    @cached_property
    def label(self) -> Codes:
        """[S M, K] the answers to the pooled test samples."""
        return np.concatenate([part.label for part in self.parts])

    @cached_property
    def correct(self) -> Bools:
        """[S M, K] whether these are right."""
        return np.concatenate([part.correct for part in self.parts])

    def measured(self, measure: Scored) -> Measured:
        """Return a number that `measure` computes from mean scores [n, 4 K], as [n]."""
        values = measure(self.by_seed)
        if np.isnan(values).any():
            return NOT_KNOWN
        draws = np.mean([measure(one) for one in self.draws], axis=0)
        known = np.isfinite(draws)
        if 1 - known.mean() >= TAIL / 100:
            return replace(NOT_KNOWN, value=float(values.mean()))
        if self.several:
            found = over_seeds(values.tolist(), draws[known], self.same_test)
            return Measured(found.mean, found.deviation, found.low, found.high, found.p_value)
        low, high = np.percentile(draws[known], [TAIL, 100 - TAIL])
        return Measured(float(values[0]), float("nan"), float(low), float(high), float("nan"))


def _same_samples(paired: Paired) -> list[Codes] | None:
    """Return for each seed the order [M] of its first run's test samples that is the first seed's;
    None if the seeds differ in their test samples, or in how these are grouped."""
    first, orders = paired.runs[0][0], []
    for row in paired.runs:
        try:
            order = order_of(first, row[0], ("", ""))
        except UserError:
            return None
        one, two = first.test["group"].to_numpy(), row[0].test["group"].to_numpy()[order]
        if not np.array_equal(pd.factorize(one)[0], pd.factorize(two)[0]):
            return None
        orders.append(order)
    return orders


def _one_seed(
    runs: Sequence[Run], names: list[str], answers: list[str], first: Codes | None
) -> OneSeed:
    """Collect the answers of runs. first: the order of the first run's samples, if another."""
    named = zip(runs, names, strict=True)
    at_first = [order_of(runs[0], run, (names[0], name)) for run, name in named]
    orders = at_first if first is None else [order[first] for order in at_first]
    test = runs[0].test if first is None else runs[0].test.iloc[first].reset_index(drop=True)
    pairs = list(zip(runs, orders, strict=True))
    label = np.stack([_labels(run, order, answers) for run, order in pairs], axis=1)
    truth = codes(test["answer"], answers)
    scores = np.concatenate([_scores(run, order) for run, order in pairs], axis=1)
    return OneSeed(test, label, label == truth[:, None], scores)


def _labels(run: Run, order: Codes, answers: list[str]) -> Codes:
    """Return [M] the answers of a run's student as indices of `answers`."""
    place = np.array([*(answers.index(name) for name in run.answers), -1], dtype=np.int64)
    found: Codes = place[run.answered("student", "student").label[order]]
    return found


def _scores(run: Run, order: Codes) -> Doubles:
    """Return [M, 4]: 1 where the student is correct; and where student, floor and ceiling are, on
    the samples that the floor answers, 0 on the others (of which PGR is independent).

    nan without a ceiling.
    """
    best = run.prepared["floor"]["teacher"]
    answered = run.answered("teacher", best).label >= 0
    student, floor = run.correct("student", "student"), run.correct("teacher", best)
    ceiling: NDArray[Any] = np.full(len(floor), np.nan)
    if "ceiling" in run.controls:
        ceiling = run.correct("control", "ceiling") & answered
    found = np.stack([student, student & answered, floor, ceiling], axis=1)
    return found.astype(np.float64)[order]


def accuracy_of(place: int) -> Scored:
    """Return the function from scores to the accuracy of an entry, by its place."""
    return lambda scores: scores[:, 4 * place]


def pgr_of(place: int) -> Scored:
    """Return the function from scores to the PGR of an entry; nan without a gap."""

    def recovered(scores: Doubles) -> Doubles:
        student, floor, ceiling = scores[:, 4 * place + 1 : 4 * place + 4].T
        gap = ceiling - floor
        none = np.full_like(gap, np.nan)
        found: Doubles = np.divide(student - floor, gap, out=none, where=gap > 0)
        return found

    return recovered


def less(one: Scored, two: Scored) -> Scored:
    """Return the function from scores to the difference, one - two."""
    return lambda scores: one(scores) - two(scores)
