"""What the student learnt: against its teachers, by class and by domain, and how sure it is.

Every supervision's accuracy by domain, as papers on data of several domains print it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cosup.analysis.arrays import Codes, codes, repeated
from cosup.analysis.base import (
    Absent,
    Bools,
    Values,
    categories,
    counted,
    decided,
    mean,
    need_student,
    ratio,
)
from cosup.analysis.records import Run

__all__ = [
    "MEAN",
    "supervision_domains_table",
]


BINS = 15
PLACES = ("all", "inside", "outside")


def student_teachers_table(run: Run) -> pd.DataFrame:
    """The student beside each teacher, on what measures; rows without a sample are left out.

    teacher, where ("all", "inside" or "outside" of its scope), samples, agreement (share with the
    same answer), and shares that sum to 1: both_right, student_only (the student surpasses it),
    teacher_only, same_error (the student has its error), other_error.
    """
    need_student(run)
    student = run.answered("student", "student").label
    known = None if run.few_shot else run.holds(run.test)
    rows = []
    for place, teacher in enumerate(run.teachers):
        said = run.answered("teacher", teacher.name).label
        chosen: list[Bools] = [np.ones(len(said), bool)]
        if known is not None:
            chosen += [known[:, place], ~known[:, place]]
        for where, part in zip(PLACES, chosen, strict=False):
            if part.any():
                shares = _shares(student[part], said[part], run.truth[part])
                rows.append({"teacher": teacher.name, "where": where, **shares})
    table = pd.DataFrame(rows)
    table["teacher"] = pd.Categorical(table["teacher"], categories=run.teacher_names)
    table["where"] = pd.Categorical(table["where"], categories=list(PLACES))
    return table


def _shares(student: Codes, teacher: Codes, truth: Codes) -> dict[str, float]:
    own, theirs, same = student == truth, teacher == truth, student == teacher
    return {
        "samples": len(truth),
        "agreement": mean(same & (student >= 0)),
        "both_right": mean(own & theirs),
        "student_only": mean(own & ~theirs),
        "teacher_only": mean(theirs & ~own),
        "same_error": mean(~own & ~theirs & same),
        "other_error": mean(~own & ~theirs & ~same),
    }


def classes_table(run: Run) -> pd.DataFrame:
    """A row per class of what measures: see `_by_name`."""
    need_student(run)
    names = list(run.prepared["measured_classes"])
    return _by_name(run, "true_label", names, run.classes)


def domains_table(run: Run) -> pd.DataFrame:
    """A row per domain of what measures: see `_by_name`."""
    need_student(run)
    names = list(run.prepared["measured_domains"])
    if len(names) == 1:
        raise Absent("the data has one domain alone")
    return _by_name(run, "domain", names, run.domains)


def _by_name(run: Run, column: str, names: list[str], trained: list[str]) -> pd.DataFrame:
    """name, samples (that measure), then accuracies: student, floor (the best single teacher),
    first_round, ceiling; gained (student - floor), to_ceiling (ceiling - student); of the last
    round's samples in student_train assigned_accuracy (of their annotations) and kept (share).
    Null where there is nothing to count; in few-shot runs the last two are of other classes.
    """
    place = codes(run.test[column], names)
    samples = np.bincount(place[place >= 0], minlength=len(names))

    def by(kind: str, who: str) -> Values:
        hits = run.correct(kind, who) & (place >= 0)
        return ratio(np.bincount(place[hits], minlength=len(names)), samples)

    nothing = np.full(len(names), np.nan)
    ceiling = by("control", "ceiling") if "ceiling" in run.controls else nothing
    student, floor = by("student", "student"), by("teacher", run.prepared["floor"]["teacher"])
    assigned, kept = _last_round(run, column, names, trained)
    table = pd.DataFrame(
        {
            "name": categories(np.arange(len(names)), names),
            "samples": samples,
            "student": student,
            "floor": floor,
            "first_round": by("round", f"round {run.rounds[0]}"),
            "ceiling": ceiling,
            "gained": student - floor,
            "to_ceiling": ceiling - student,
            "assigned_accuracy": assigned,
            "kept": kept,
        }
    )
    there = (table["samples"] > 0) | table["kept"].notna()
    return table[there].reset_index(drop=True)


def _last_round(
    run: Run, column: str, names: Sequence[str], trained: Sequence[str]
) -> tuple[Values, Values]:
    """Accuracy of the assigned annotations, and the share kept, by name: [len(names)] each."""
    nothing = np.full(len(names), np.nan)
    if list(names) != list(trained):
        return nothing, nothing
    now = decided(run, run.rounds[-1])
    place = now.truth if column == "true_label" else now.domain

    def count(chosen: Bools) -> Codes:
        return np.bincount(place[chosen & (place >= 0)], minlength=len(names))

    everyone = count(np.ones(len(place), bool))
    return ratio(count(now.right), count(now.known)), ratio(count(now.kept), everyone)


def confusion_table(run: Run) -> pd.DataFrame:
    """true, predicted, samples: how often the student takes one class for another (or itself),
    on what measures; pairs that occur alone. A way of an episode stands for its class there.
    """
    need_student(run)
    names = list(run.prepared["measured_classes"])
    truth, label = codes(run.test["true_label"], names), run.answered("student", "student").label
    if run.few_shot:
        group = run.test["group"].to_numpy()
        ways = np.full((int(group.max()) + 1, len(run.answers)), -1)
        ways[group, run.truth] = truth
        label = np.where(label >= 0, ways[group, label], -1)
    return counted({"true": (truth, names), "predicted": (label, names)})


def calibration_table(run: Run) -> pd.DataFrame:
    """Confidence and accuracy by bin of confidence, for the student, each round and each control.

    who ("student", "round 1", "control ceiling"), low, high (the bin is (low, high]), samples,
    confidence, accuracy (means); bins without samples are left out. The weighted gaps of a `who`
    sum to its expected calibration error (`cosup.metrics`).
    """
    need_student(run)
    parts = []
    for kind, who in run.predictors():
        if kind == "teacher":
            continue
        found = run.answered(kind, who)
        confidence = found.confidence.astype(np.float64)
        place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        samples = np.bincount(place, minlength=BINS)
        right = run.correct(kind, who)
        table = pd.DataFrame(
            {
                "who": f"control {who}" if kind == "control" else who,
                "low": np.arange(BINS) / BINS,
                "high": np.arange(1, BINS + 1) / BINS,
                "samples": samples,
                "confidence": ratio(np.bincount(place, confidence, BINS), samples),
                "accuracy": ratio(np.bincount(place, right, BINS), samples),
            }
        )
        parts.append(table[samples > 0])
    table = pd.concat(parts, ignore_index=True)
    table["who"] = pd.Categorical(table["who"], categories=list(table["who"].unique()))
    return table


MEAN = "mean over domains"
"""How the row for all domains, each of them counting alike, is called."""


def supervision_domains_table(run: Run) -> pd.DataFrame:
    """A row per supervision and domain of what measures, then one for its mean over the domains.

    who, kind (student, control, teacher; the order of `overview`), domain, samples, accuracy. The
    mean ("mean over domains") is the unweighted one of the domains' accuracies, the "Avg" of papers
    on DomainNet; its samples are those of all domains. Domains without a sample are left out.
    """
    need_student(run)
    names = list(run.prepared["measured_domains"])
    place = np.where(run.truth >= 0, codes(run.test["domain"], names), -1)
    samples = np.bincount(place[place >= 0], minlength=len(names))
    there = np.flatnonzero(samples)
    if not len(there):
        raise Absent("no true label of what measures is known")
    if len(there) == 1:
        raise Absent("what measures is of one domain alone")
    everybody = [(kind, who) for kind, who in run.predictors() if kind != "round"]
    accuracy = np.empty((len(everybody), len(there) + 1))
    for row, (kind, who) in enumerate(everybody):
        right = place[run.correct(kind, who) & (place >= 0)]
        accuracy[row, :-1] = np.bincount(right, minlength=len(names))[there] / samples[there]
    accuracy[:, -1] = accuracy[:, :-1].mean(1)
    width = accuracy.shape[1]
    kinds = pd.CategoricalDtype(["student", "control", "teacher"])
    known = list(dict.fromkeys([*names, MEAN]))
    columns = [*there, known.index(MEAN)]
    return pd.DataFrame(
        {
            "who": repeated([who for _, who in everybody], width),
            "kind": pd.Categorical(np.repeat([kind for kind, _ in everybody], width), dtype=kinds),
            "domain": categories(np.tile(columns, len(everybody)), known),
            "samples": np.tile([*samples[there], samples.sum()], len(everybody)),
            "accuracy": accuracy.ravel(),
        }
    )
