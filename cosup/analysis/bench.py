"""The tables of a bench: what each method reaches on each data set, over its seeds.

Accuracies are fractions on the test samples of the runs. Intervals of 95 % cover the chance of
seeds and of test samples, as those of `cosup compare` do (`cosup.metrics.over_seeds`). Differences
are paired by seed and test sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Doubles, Tables
from cosup.analysis.compared import NOT_KNOWN, Measured
from cosup.analysis.records import Run
from cosup.controls import GENERALIST, LABELS, PAIR, TEAM
from cosup.metrics import holm, over_seeds, pgr, resampled_means, spread
from cosup.metrics.intervals import LEVEL
from cosup.seeds import seed_for

__all__ = ["AGAINST", "WHO", "BenchResult", "bench_tables"]

WHO: dict[str, tuple[str, str] | None] = {
    "student": ("student", "student"),
    "with_team": ("control", PAIR),
    "team": ("control", TEAM),
    "generalist": ("control", GENERALIST),
    "labels": ("control", LABELS),
    "ceiling": ("control", "ceiling"),
    "floor": None,
}
"""What is measured of each run: the student, the student with its teachers, the controls that it
has with its own loss, and the best single teacher."""
PLACE = {name: place for place, name in enumerate(WHO)}
COMPARED = ("student", "with_team")
"""Whose differences from the baseline are shown, and who is ranked."""
AGAINST = (
    ("with_team", "team"),
    ("with_team", "generalist"),
    ("student", "generalist"),
    ("student", "labels"),
)
"""What is compared within each run."""
TAIL = (100 - LEVEL) / 2


class BenchResult:
    """A finished run of a bench, as far as its tables read it."""

    def __init__(self, data: str, method: str, seed: int, run: Run) -> None:
        self.data, self.method, self.seed, self.run = data, method, seed, run

    @cached_property
    def scores(self) -> Doubles:
        """[M, K] 1 where each of `WHO` is right on a test sample, 0 elsewhere; nan if it is none
        of the run's."""
        run = self.run
        best = ("teacher", str(run.prepared["floor"]["teacher"]))
        found = np.full((len(run.test), len(WHO)), np.nan)
        for place, asked in enumerate(WHO.values()):
            kind, who = asked or best
            if kind != "control" or who in run.controls:
                found[:, place] = run.correct(kind, who)
        return found

    @cached_property
    def means(self) -> Doubles:
        """[K] the accuracies."""
        means: Doubles = self.scores.mean(0)
        return means

    @cached_property
    def draws(self) -> Doubles:
        """[D, K] the accuracies in bootstrap draws of groups of test samples; the same draws for
        runs with the same test samples."""
        groups = pd.factorize(self.run.test["group"])[0]
        return resampled_means(self.scores, groups, seed=seed_for(0, "bootstrap"))

    @cached_property
    def samples(self) -> list[str]:
        """The names of the test samples, in their order."""
        return [str(name) for name in self.run.test["sample_id"]]

    @property
    def recovered(self) -> dict[str, float | None]:
        """PGR of the student and of the student with its teachers, with the best teacher as the
        floor and with the team; None where the gap is within noise."""
        student = self.run.summary["student"]
        pair = self.run.summary["controls"].get(PAIR, {})
        of_team = student.get("pgr_team", {}).get("value")
        with_team = None
        if of_team is not None:
            ends = (self.means[PLACE[name]] for name in ("team", "with_team", "ceiling"))
            with_team = pgr(*map(float, ends))
        return {
            "pgr": student["pgr"],
            "pgr_over_team": of_team,
            "with_team_pgr": pair.get("pgr"),
            "with_team_pgr_over_team": with_team,
        }


@dataclass(frozen=True)
class _Grid:
    """The results by data set and method, each in the order of its seeds."""

    results: Mapping[tuple[str, str], Mapping[int, BenchResult]]
    same_test: Mapping[str, bool]

    @classmethod
    def of(cls, results: Iterable[BenchResult]) -> "_Grid":
        found: dict[tuple[str, str], dict[int, BenchResult]] = {}
        tests: dict[str, list[set[str]]] = {}
        for one in sorted(results, key=lambda result: result.seed):
            found.setdefault((one.data, one.method), {})[one.seed] = one
            tests.setdefault(one.data, []).append(set(one.samples))
        same = {data: all(test == every[0] for test in every) for data, every in tests.items()}
        return cls(found, same)

    def accuracy(self, data: str, method: str, who: str) -> Measured:
        """Return the accuracy of one of `WHO` of a method."""
        runs = self.results[data, method].values()
        place = PLACE[who]
        values = [float(run.means[place]) for run in runs]
        return _measured(values, [run.draws[:, place] for run in runs], self.same_test[data])

    def difference(self, data: str, one: tuple[str, str], other: tuple[str, str]) -> Measured:
        """Return the accuracy of one (method, who) minus that of another, over the seeds that both
        have; not known for other test samples."""
        first, second = (self.results[data, method] for method, _ in (one, other))
        common = [seed for seed in first if seed in second]
        if not common or any(first[s].samples != second[s].samples for s in common):
            return NOT_KNOWN
        places = PLACE[one[1]], PLACE[other[1]]
        pairs = [(first[seed], second[seed]) for seed in common]
        values = [float(a.means[places[0]] - b.means[places[1]]) for a, b in pairs]
        draws = [a.draws[:, places[0]] - b.draws[:, places[1]] for a, b in pairs]
        return _measured(values, draws, self.same_test[data])


def _measured(values: list[float], draws: list[Doubles], same_test: bool) -> Measured:
    if not np.isfinite(values).all():
        return NOT_KNOWN
    if len(values) > 1:
        found = over_seeds(values, np.mean(draws, axis=0), same_test)
        return Measured(found.mean, found.deviation, found.low, found.high, found.p_value)
    low, high = np.percentile(draws[0], [TAIL, 100 - TAIL])
    nothing = float("nan")
    return Measured(values[0], nothing, float(low), float(high), nothing)


def bench_tables(
    results: Sequence[BenchResult], data: Sequence[str], methods: Sequence[str], baseline: str
) -> Tables:
    """Return the tables of a bench from its finished runs.

    results: a row per data set and method: accuracies, intervals, PGR. differences: of each method
    from the baseline, and from the controls of its own runs. ranks: means over the data sets, 1 for
    the best. runs: a row per run.
    """
    grid = _Grid.of(results)
    cells = [(one, two) for one in data for two in methods if (one, two) in grid.results]
    return {
        "results": pd.DataFrame([_result(grid, *cell) for cell in cells]),
        "differences": _differences(grid, cells, baseline),
        "ranks": _ranks(grid, cells, data, methods),
        "runs": pd.DataFrame([_run(one) for cell in cells for one in grid.results[cell].values()]),
    }


def _result(grid: _Grid, data: str, method: str) -> dict[str, Any]:
    runs = list(grid.results[data, method].values())
    row: dict[str, Any] = {"data": data, "method": method, "seeds": len(runs)}
    for who in WHO:
        found = grid.accuracy(data, method, who)
        row[who] = found.value
        if who in COMPARED:
            row[f"{who}_low"] = np.maximum(found.low, 0)  # Student's t knows no bounds
            row[f"{who}_high"] = np.minimum(found.high, 1)
    for name in runs[0].recovered:
        values = [run.recovered[name] for run in runs]
        over = spread([] if None in values else values)
        row[name] = np.nan if over["mean"] is None else over["mean"]
        row[f"{name}_low"], row[f"{name}_high"] = over["ci95"] or (np.nan, np.nan)
    seconds = [run.run.summary["seconds"] for run in runs]
    row["rounds_seconds"] = float(np.mean([one["rounds"] for one in seconds]))
    row["chosen"] = "; ".join(dict.fromkeys(_chosen(run) for run in runs))
    return row


def _chosen(result: BenchResult) -> str:
    """Return the recipe that a run with `choose: auto` took; "" for another run."""
    return str(result.run.summary.get("choice", {}).get("chosen", ""))


def _differences(grid: _Grid, cells: Sequence[tuple[str, str]], baseline: str) -> pd.DataFrame:
    """Return the differences, p-values corrected for the methods that are compared alike."""
    rows = []
    for data, method in cells:
        pairs = [((method, who), (method, against)) for who, against in AGAINST]
        if method != baseline and (data, baseline) in grid.results:
            pairs += [((method, who), (baseline, who)) for who in COMPARED]
        for one, other in pairs:
            found = grid.difference(data, one, other)
            if np.isnan(found.value):
                continue
            rows.append(
                {
                    "data": data,
                    "method": method,
                    "of": one[1],
                    "against": other[1] if other[0] == method else baseline,
                    "difference": found.value,
                    "difference_low": np.maximum(found.low, -1),
                    "difference_high": np.minimum(found.high, 1),
                    "p_value": found.p_value,
                }
            )
    columns = ["data", "method", "of", "against", "difference", "difference_low"]
    table = pd.DataFrame(rows, columns=[*columns, "difference_high", "p_value"])
    table["p_corrected"] = np.nan
    for _, part in table.groupby(["data", "of", "against"], sort=False):
        if part["p_value"].notna().all():
            table.loc[part.index, "p_corrected"] = holm(part["p_value"].tolist())
    return table


def _ranks(
    grid: _Grid, cells: Sequence[tuple[str, str]], data: Sequence[str], methods: Sequence[str]
) -> pd.DataFrame:
    """Return the mean rank of each method over the data sets; nan unless it has all of them."""
    table = pd.DataFrame({"method": list(methods)})
    there = [one for one in data if any(cell[0] == one for cell in cells)]
    for who in COMPARED:
        ranks = pd.DataFrame(index=list(methods))
        for one in there:
            found = {two: grid.accuracy(one, two, who).value for each, two in cells if each == one}
            values = pd.Series(found, dtype="float64").reindex(list(methods))
            ranks[one] = values.rank(ascending=False)
        table[f"{who}_rank"] = ranks.mean(axis=1, skipna=False).to_numpy()
    return table.assign(data_sets=len(there))


def _run(result: BenchResult) -> dict[str, Any]:
    row: dict[str, Any] = {"data": result.data, "method": result.method, "seed": result.seed}
    row |= {who: float(result.means[place]) for who, place in PLACE.items()}
    summary = result.run.summary
    return row | {
        "chosen": _chosen(result),
        "seconds": summary["seconds"]["total"],
        "directory": str(result.run.path),
    }
