"""Comparison of runs on the same test samples, seed with seed."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cosup.analysis.arrays import categories, mean
from cosup.analysis.comparable import Entry
from cosup.analysis.compared import NOT_KNOWN, Compared, accuracy_of, less, pgr_of
from cosup.analysis.compared_settings import config_table
from cosup.analysis.records import Run
from cosup.analysis.supervision_domains import MEAN
from cosup.metrics import holm, mcnemar
from cosup.origins import shown

__all__ = ["compare", "tables_of"]


def compare(entries: Sequence[Entry]) -> dict[str, pd.DataFrame]:
    """Compare two or more entries. Shares and accuracies are fractions in [0, 1].

    Entries (`entries_in`) are named by their directories; the first one is the baseline of the
    others, and every difference is that of a later entry minus an earlier one. Numbers are means
    over the S seeds that all entries have, paired seed with seed. The 95 % interval of one seed is
    that of the paired bootstrap over groups of test samples; of several, that of
    `cosup.metrics.over_seeds`. Returns these tables:

    runs       run, seeds (their number), student (accuracy), deviation (over seeds), low, high,
               floor, ceiling, pgr, pgr_deviation, pgr_low, pgr_high (of one seed as in its
               summary), seconds (mean), peak_rss_mb (largest), directory
    seeds      run, seed, student, floor, ceiling, pgr: the numbers for each seed
    config     key, origin, and a column per entry with the setting as JSON: settings that affect
               the results and differ, and parts of the environment (`Differing`); those that a
               config sets come first
    pairs      run, baseline, difference (of accuracy, run - baseline), deviation, low, high,
               pgr_difference, pgr_low, pgr_high (null without PGR), better_on (seeds on which run
               is better), agreement (share of samples with the same answer), both_right, run_only,
               baseline_only, both_wrong (samples, of all seeds), p_value (of one seed: exact
               McNemar test on single samples; else of `over_seeds`), p_corrected (by Holm, for the
               number of pairs)
    flipped    samples on which some entries are correct and others wrong: seed, sample_id,
               true_label, domain, right (the number of correct ones), and `RUN label` and
               `RUN correct` per entry
    classes    class, samples (those of all seeds, unless these have the same), and a column per
               entry with its accuracy
    domains    domain, samples, and a column per entry; with several domains the last row is the
               unweighted mean of the accuracies ("mean over domains") and all samples
    curves     run, seed, tag, step, value: the numbers recorded during the runs

    Raises `UserError` for entries that cannot be compared (`pair_seeds`), and for runs of the same
    seed whose test samples differ.
    """
    return tables_of(Compared(entries))


def tables_of(found: Compared) -> dict[str, pd.DataFrame]:
    """Return the tables of `compare`."""
    seeds = _seeds(found)
    return {
        "runs": _runs(found, seeds),
        "seeds": seeds,
        "config": config_table(found.paired, found.names),
        "pairs": _pairs(found),
        "flipped": _flipped(found),
        "classes": _by(found, "true_label", "class"),
        "domains": _with_mean(_by(found, "domain", "domain")),
        "curves": _curves(found),
    }


def _seeds(found: Compared) -> pd.DataFrame:
    rows = [
        {
            "run": name,
            "seed": int(run.config["run"]["seed"]),
            "student": mean(run.correct("student", "student")),
            "floor": _floor(run),
            "ceiling": mean(run.correct("control", "ceiling")) if _has_ceiling(run) else np.nan,
            "pgr": run.summary["student"]["pgr"] if run.summary["student"]["pgr_ci95"] else np.nan,
        }
        for place, name in enumerate(found.names)
        for run in found.runs_of(place)
    ]
    return pd.DataFrame(rows)


def _floor(run: Run) -> float:
    """Return the accuracy of the floor on the test samples that it answers."""
    best = run.prepared["floor"]["teacher"]
    return mean(run.correct("teacher", best), run.answered("teacher", best).label >= 0)


def _has_ceiling(run: Run) -> bool:
    return "ceiling" in run.controls


def _runs(found: Compared, seeds: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for place, (name, entry) in enumerate(zip(found.names, found.entries, strict=True)):
        runs = found.runs_of(place)
        own = seeds[seeds["run"] == name]
        student = found.measured(accuracy_of(place))
        known = found.several and bool(own["pgr"].notna().all())
        pgr = found.measured(pgr_of(place)) if known else NOT_KNOWN
        ends = (pgr.low, pgr.high)
        if not found.several:
            ends = runs[0].summary["student"]["pgr_ci95"] or ends
        rows.append(
            {
                "run": name,
                "seeds": len(runs),
                "student": student.value,
                "deviation": student.deviation,
                "low": np.maximum(student.low, 0),  # Student's t knows no bounds
                "high": np.minimum(student.high, 1),
                "floor": own["floor"].mean(),
                "ceiling": own["ceiling"].mean(skipna=False),
                "pgr": own["pgr"].mean(skipna=False),
                "pgr_deviation": pgr.deviation,
                "pgr_low": ends[0],
                "pgr_high": ends[1],
                "seconds": np.mean([run.summary["seconds"]["total"] for run in runs]),
                "peak_rss_mb": max(run.summary["peak_rss_mb"] for run in runs),
                "directory": shown(entry.path),
            }
        )
    return pd.DataFrame(rows)


def _pairs(found: Compared) -> pd.DataFrame:
    rows = []
    correct, label = found.correct, found.label
    for baseline, run in combinations(range(len(found.entries)), 2):
        one, two = correct[:, run], correct[:, baseline]
        accuracy = less(accuracy_of(run), accuracy_of(baseline))
        lead = found.measured(accuracy)
        pgr = found.measured(less(pgr_of(run), pgr_of(baseline)))
        alone, other_alone = int((one & ~two).sum()), int((two & ~one).sum())
        rows.append(
            {
                "run": found.names[run],
                "baseline": found.names[baseline],
                "difference": lead.value,
                "deviation": lead.deviation,
                "low": np.maximum(lead.low, -1),
                "high": np.minimum(lead.high, 1),
                "pgr_difference": np.nan if np.isnan(pgr.low) else pgr.value,
                "pgr_low": pgr.low,
                "pgr_high": pgr.high,
                "better_on": int((accuracy(found.by_seed) > 0).sum()),
                "agreement": float((label[:, run] == label[:, baseline]).mean()),
                "both_right": int((one & two).sum()),
                "run_only": alone,
                "baseline_only": other_alone,
                "both_wrong": int((~one & ~two).sum()),
                "p_value": lead.p_value if found.several else mcnemar(alone, other_alone),
            }
        )
    table = pd.DataFrame(rows)
    table["p_corrected"] = holm(table["p_value"].tolist())
    return table


def _flipped(found: Compared) -> pd.DataFrame:
    """Return the samples on which some entries are correct and others wrong."""
    correct, label = found.correct, found.label
    count = correct.sum(1)
    chosen = np.flatnonzero((count > 0) & (count < len(found.entries)))
    shown = ["seed", "sample_id", "true_label", "domain"]
    table = found.pooled.iloc[chosen][shown].reset_index(drop=True)
    table["right"] = count[chosen]
    for place, name in enumerate(found.names):
        table[f"{name} label"] = categories(label[chosen, place], found.answers)
        table[f"{name} correct"] = correct[chosen, place]
    return table


def _by(found: Compared, column: str, called: str) -> pd.DataFrame:
    """Return the accuracy of each entry by the values of a column of the test samples."""
    values, correct = found.pooled[column], found.correct
    names = values.cat.categories
    place = values.cat.codes.to_numpy().astype(np.int64)
    known = place >= 0
    total = np.bincount(place[known], minlength=len(names))
    there = total > 0
    columns: dict[str, Any] = {called: pd.Categorical(names[there], categories=names)}
    columns["samples"] = total[there] // (len(found.parts) if found.same_test else 1)
    for run, name in enumerate(found.names):
        right = correct[known, run].astype(np.float64)
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


def _curves(found: Compared) -> pd.DataFrame:
    parts = [
        run.scalars[["tag", "step", "value"]].assign(run=name, seed=run.config["run"]["seed"])
        for place, name in enumerate(found.names)
        for run in found.runs_of(place)
    ]
    return pd.concat(parts, ignore_index=True)[["run", "seed", "tag", "step", "value"]]
