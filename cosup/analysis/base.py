"""What the tables share: why one can't be made, a round's decisions as arrays, counting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup.analysis.arrays import Codes, categories, codes
from cosup.analysis.records import Run

__all__ = ["Absent", "Decided", "categories", "counted", "decided", "mean", "need_rounds"]

Bools = NDArray[np.bool_]
Values = NDArray[Any]
Row = Mapping[str, Any]

NO_SAMPLES = "the run has no samples.parquet: it was made by an earlier version of cosup"
NO_LABELS = "no true label of student_train is known"
NO_ROUND = "no round is finished"


class Absent(Exception):
    """A table that can't be made of this run; its text says why."""


@dataclass(frozen=True)
class Decided:
    """A round's decisions on the N samples of student_train.

    teacher: [N] places among the run's teachers. label: [N] the annotation's class (-1: all
    assigned teachers abstain), truth: [N] the true one (-1 unknown), both among the run's classes;
    domain: [N] among its domains. kept, known (is the truth?), right (is the annotation?): [N].
    """

    number: int
    teacher: Codes
    label: Codes
    truth: Codes
    domain: Codes
    kept: Bools
    known: Bools
    right: Bools


def decided(run: Run, number: int) -> Decided:
    """A finished round's decisions as arrays."""
    table = run.round(number)
    label = codes(table["annotation"], run.classes)
    truth = codes(table["true_label"], run.classes)
    known = truth >= 0
    return Decided(
        number,
        codes(table["assigned_teacher"], run.teacher_names),
        label,
        truth,
        codes(table["domain"], run.domains),
        table["kept"].to_numpy(bool),
        known,
        known & (label == truth),
    )


def need_rounds(run: Run) -> list[Decided]:
    """The decisions of every finished round; `Absent` where there is none."""
    need_samples(run)
    if not run.rounds:
        raise Absent(NO_ROUND)
    return [decided(run, number) for number in run.rounds]


def need_samples(run: Run) -> None:
    """`Absent` for a run that isn't prepared, or was before samples.parquet was kept."""
    if not run.prepared:
        raise Absent(NO_SAMPLES if run.finished else "teachers and annotations are not finished")


def need_student(run: Run) -> None:
    """`Absent` for a run without a finished round: it has no student yet."""
    need_samples(run)
    if not run.rounds:
        raise Absent(NO_ROUND)


def need_labels(known: Bools) -> None:
    """`Absent` where no label is known."""
    if not known.any():
        raise Absent(NO_LABELS)


def mean(values: Values, chosen: Bools | None = None) -> float:
    """The mean of (the chosen) values; nan of none."""
    part = values if chosen is None else values[chosen]
    return float(np.mean(part)) if len(part) else float("nan")


def counted(
    keys: Mapping[str, tuple[Codes, Sequence[str]]],
    means: Mapping[str, tuple[Values, Bools | None]] | None = None,
) -> pd.DataFrame:
    """Samples per combination of keys that occurs, ordered by key, and means of values among them.

    keys: column -> (codes [N], names); a sample with a code of -1 is left out. means: column ->
    (values [N], which of them count, or None: all); nan where none does.
    """
    whole = np.all([code >= 0 for code, _ in keys.values()], axis=0)
    joint = np.zeros(int(whole.sum()), dtype=np.int64)
    for code, names in keys.values():
        joint = joint * max(1, len(names)) + code[whole]
    found, place = np.unique(joint, return_inverse=True)
    columns: dict[str, Any] = {}
    rest = found
    for column, (_, names) in reversed(list(keys.items())):
        columns[column] = categories(rest % max(1, len(names)), names)
        rest = rest // max(1, len(names))
    table = pd.DataFrame({column: columns[column] for column in keys})
    table["samples"] = np.bincount(place, minlength=len(found))
    for column, (values, counts) in (means or {}).items():
        weight = np.ones(len(joint)) if counts is None else counts[whole].astype(np.float64)
        total = np.bincount(place, weights=weight, minlength=len(found))
        hits = np.bincount(place, weights=weight * values[whole], minlength=len(found))
        table[column] = ratio(hits, total)
    return table


def ratio(part: Values, whole: Values) -> NDArray[np.float64]:
    """part / whole, nan where the whole is 0."""
    whole = np.asarray(whole, dtype=np.float64)
    part = np.broadcast_to(np.asarray(part, dtype=np.float64), whole.shape)
    found = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, each as a dict by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def row_of(table: pd.DataFrame, place: int) -> Row:
    """A row by its place, as a mapping from columns to values."""
    return rows_of(table.iloc[[place]])[0]


def most(table: pd.DataFrame, column: str) -> Row:
    """The (first) row with the largest number in a column."""
    return row_of(table, int(np.nanargmax(table[column].to_numpy(np.float64))))


def least(table: pd.DataFrame, column: str) -> Row:
    """The (first) row with the smallest number in a column."""
    return row_of(table, int(np.nanargmin(table[column].to_numpy(np.float64))))
