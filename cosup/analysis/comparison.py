"""Comparison of runs on the same test samples."""

import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.analysis.arrays import Bools, Codes, Doubles, categories, codes, mean
from cosup.analysis.comparable import aligned, labels, runs_to_compare
from cosup.analysis.domains import MEAN
from cosup.analysis.records import Run
from cosup.config import settings
from cosup.metrics import holm, mcnemar, pgr, resampled_means
from cosup.metrics.intervals import LEVEL
from cosup.seeds import seed_for

__all__ = ["compare", "config_table", "labels", "runs_to_compare"]


NOT_THERE = "(not there)"
TAIL = (100 - LEVEL) / 2


class _Compared:
    """The answers of K runs to M test samples, in the order of the first run.

    label: [M, K] int64 indices of `answers` (-1: abstains). correct: [M, K] bool. scores: [M, 4 K]
    of each run, see `_scores`. draws: [D, 4 K] means of the scores in D bootstrap draws of groups.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        orders = aligned(runs)
        self.runs = runs
        self.names = labels(runs)
        self.test = runs[0].test
        self.answers = list(dict.fromkeys(name for run in runs for name in run.answers))
        self.label = np.stack(
            [_labels(run, order, self.answers) for run, order in zip(runs, orders, strict=True)],
            axis=1,
        )
        truth = codes(self.test["answer"], self.answers)
        self.correct: Bools = self.label == truth[:, None]
        self.scores = np.concatenate(
            [_scores(run, order) for run, order in zip(runs, orders, strict=True)], axis=1
        )
        seed = seed_for(int(runs[0].config["run"]["seed"]), "bootstrap")
        groups = self.test["group"].to_numpy()
        self.draws = resampled_means(self.scores, groups, seed=seed)

    def accuracy(self, place: int) -> Doubles:
        """Return [D] the accuracy of a run in each draw."""
        found: Doubles = self.draws[:, 4 * place]
        return found

    def pgr(self, place: int) -> float | None:
        """Return the PGR of a run; None without a ceiling above its floor."""
        student, floor, ceiling = self.scores[:, 4 * place + 1 : 4 * place + 4].mean(0).tolist()
        return pgr(floor, student, ceiling)

    def pgr_draws(self, place: int) -> Doubles:
        """Return [D] the PGR of a run in each draw; nan if the draw has no gap."""
        student, floor, ceiling = self.draws[:, 4 * place + 1 : 4 * place + 4].T
        gap = ceiling - floor
        found: Doubles = np.divide(
            student - floor, gap, out=np.full_like(gap, np.nan), where=gap > 0
        )
        return found


def compare(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Compare two or more runs. Shares and accuracies are fractions in [0, 1].

    Runs are named by their directories. Intervals are 95 % intervals of a paired bootstrap over
    groups of test samples. Returns these tables:

    runs       run, student (accuracy), low, high, floor, ceiling, pgr, pgr_low, pgr_high (PGR as in
               the run's summary), seconds, peak_rss_mb, directory
    config     key, and a column per run with the setting as JSON: settings that affect the results
               and parts of the environment (`environment.`) that differ
    pairs      first, second (the later run is `first`, so that differences are gains over a
               baseline that is given first), difference (of accuracy, first - second),
               low, high, pgr_difference, pgr_low, pgr_high (null without PGR), agreement (share of
               samples with the same answer), both_right, first_only, second_only, both_wrong
               (samples), p_value (exact McNemar test on single samples), p_corrected (by Holm, for
               the number of pairs)
    flipped    samples on which some runs are correct and others wrong: sample_id, true_label,
               domain, right (the number of correct runs), and `RUN label` and `RUN correct` per run
    classes    class, samples, and a column per run with its accuracy
    domains    domain, samples, and a column per run; with several domains the last row is the
               unweighted mean of the accuracies ("mean over domains") and all samples
    curves     run, tag, step, value: the numbers recorded during the runs

    Raises `UserError` for runs that cannot be compared (`cosup.analysis.comparable.aligned`).
    """
    found = _Compared(runs)
    return {
        "runs": _runs(found),
        "config": config_table(found.runs, found.names),
        "pairs": _pairs(found),
        "flipped": _flipped(found),
        "classes": _by(found, "true_label", "class"),
        "domains": _with_mean(_by(found, "domain", "domain")),
        "curves": _curves(found),
    }


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


def _runs(found: _Compared) -> pd.DataFrame:
    rows = []
    for place, run in enumerate(found.runs):
        low, high = _interval(found.accuracy(place))
        measured = run.summary["student"]
        pgr_low, pgr_high = measured["pgr_ci95"] or (None, None)
        best = run.prepared["floor"]["teacher"]
        answered = run.answered("teacher", best).label >= 0
        ceiling = float("nan")
        if "ceiling" in run.controls:
            ceiling = mean(run.correct("control", "ceiling"))
        rows.append(
            {
                "run": found.names[place],
                "student": mean(run.correct("student", "student")),
                "low": low,
                "high": high,
                "floor": mean(run.correct("teacher", best), answered),
                "ceiling": ceiling,
                "pgr": measured["pgr"] if measured["pgr_ci95"] else None,
                "pgr_low": pgr_low,
                "pgr_high": pgr_high,
                "seconds": run.summary["seconds"]["total"],
                "peak_rss_mb": run.summary["peak_rss_mb"],
                "directory": str(run.path),
            }
        )
    return pd.DataFrame(rows).astype(dict.fromkeys(("pgr", "pgr_low", "pgr_high"), "float64"))


def config_table(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """Return the table `config` of `compare`: what differs between runs of these names."""
    columns = [{**settings(run.config), **_environment(run)} for run in runs]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = []
    for key in keys:
        values = [
            json.dumps(column[key], ensure_ascii=False) if key in column else NOT_THERE
            for column in columns
        ]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return pd.DataFrame(rows, columns=["key", *names])


def _environment(run: Run) -> dict[str, Any]:
    """Return the versions and the machine of a run."""
    environment = run.environment
    known = {
        **{f"packages.{name}": value for name, value in environment.get("packages", {}).items()},
        "python": environment.get("python"),
        "commit": (environment.get("commit") or {}).get("id"),
        "device": (environment.get("device") or {}).get("name"),
        "threads": (environment.get("cpu") or {}).get("threads"),
    }
    return {f"environment.{key}": value for key, value in known.items() if value is not None}


def _pairs(found: _Compared) -> pd.DataFrame:
    rows = []
    for second, first in combinations(range(len(found.runs)), 2):
        one, two = found.correct[:, first], found.correct[:, second]
        low, high = _interval(found.accuracy(first) - found.accuracy(second))
        gained, other_gained = found.pgr(first), found.pgr(second)
        pgr_low, pgr_high = _interval(found.pgr_draws(first) - found.pgr_draws(second))
        alone, other_alone = int((one & ~two).sum()), int((two & ~one).sum())
        rows.append(
            {
                "first": found.names[first],
                "second": found.names[second],
                "difference": (alone - other_alone) / len(one),
                "low": low,
                "high": high,
                "pgr_difference": np.nan
                if gained is None or other_gained is None or np.isnan(pgr_low)
                else gained - other_gained,
                "pgr_low": pgr_low,
                "pgr_high": pgr_high,
                "agreement": float((found.label[:, first] == found.label[:, second]).mean()),
                "both_right": int((one & two).sum()),
                "first_only": alone,
                "second_only": other_alone,
                "both_wrong": int((~one & ~two).sum()),
                "p_value": mcnemar(alone, other_alone),
            }
        )
    table = pd.DataFrame(rows)
    table["p_corrected"] = holm(table["p_value"].tolist())
    return table


def _interval(draws: Doubles) -> tuple[float, float]:
    """Return the 95 % interval of draws; nan if 2.5 % or more of them are not finite."""
    known = draws[np.isfinite(draws)]
    if 1 - len(known) / len(draws) >= TAIL / 100:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [TAIL, 100 - TAIL])
    return float(low), float(high)


def _flipped(found: _Compared) -> pd.DataFrame:
    count = found.correct.sum(1)
    chosen = np.flatnonzero((count > 0) & (count < len(found.runs)))
    table = found.test.iloc[chosen][["sample_id", "true_label", "domain"]].reset_index(drop=True)
    table["right"] = count[chosen]
    for place, name in enumerate(found.names):
        label = found.label[chosen, place]
        table[f"{name} label"] = categories(label, found.answers)
        table[f"{name} correct"] = found.correct[chosen, place]
    return table


def _by(found: _Compared, column: str, called: str) -> pd.DataFrame:
    """Return the accuracy of each run by the values of a column of the test samples."""
    names = found.test[column].cat.categories
    place = found.test[column].cat.codes.to_numpy().astype(np.int64)
    known = place >= 0
    total = np.bincount(place[known], minlength=len(names))
    there = total > 0
    columns: dict[str, Any] = {called: pd.Categorical(names[there], categories=names)}
    columns["samples"] = total[there]
    for run, name in enumerate(found.names):
        right = found.correct[known, run].astype(np.float64)
        hits = np.bincount(place[known], weights=right, minlength=len(names))
        columns[name] = hits[there] / total[there]
    return pd.DataFrame(columns)


def _with_mean(table: pd.DataFrame) -> pd.DataFrame:
    """Append the unweighted mean over the domains."""
    if len(table) < 2:
        return table
    names = [*table["domain"].astype(str), MEAN]
    mean = table.drop(columns=["domain", "samples"]).mean()
    last = pd.DataFrame([{"domain": MEAN, "samples": table["samples"].sum(), **mean}])
    whole = pd.concat([table.astype({"domain": object}), last], ignore_index=True)
    return whole.assign(domain=pd.Categorical(names, categories=list(dict.fromkeys(names))))


def _curves(found: _Compared) -> pd.DataFrame:
    parts = [
        run.scalars[["tag", "step", "value"]].assign(run=name)
        for run, name in zip(found.runs, found.names, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[["run", "tag", "step", "value"]]
