"""The accuracy of the annotations of student_train, by teacher and class."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import (
    Codes,
    Row,
    Values,
    categories,
    codes,
    lowest_row,
    names_in_order,
    ratio,
    rows_of,
)
from cosup.analysis.decisions import all_decisions
from cosup.analysis.drawing import Cell, Matrix, View
from cosup.analysis.figure import Figure, require_labels, require_rounds, require_samples
from cosup.analysis.records import Run
from cosup.words import percent

__all__ = ["ANNOTATION_ACCURACY_FIGURE"]

MOST_TEACHERS, MOST_CLASSES = 24, 24
ENOUGH = 10
"""Annotations below which an accuracy is not singled out, if others have more."""


def annotation_accuracy_table(run: Run) -> pd.DataFrame:
    """Make the table of annotations: a row per teacher and true class of student_train.

    Columns: teacher, class, samples (that it annotated), coverage (their share), accuracy (of its
    annotations of the class), assigned_samples and assigned_accuracy (of the samples assigned to
    it in the last round that used its level; null without samples).
    """
    require_samples(run)
    size = len(run.classes)
    rounds = all_decisions(run) if run.rounds else []
    last = {run.stages[f"round-{now.number}"]["level"]: now for now in rounds}
    parts = []
    for place, (samples, answered, right) in enumerate(_answered_by_class(run)):
        there = np.flatnonzero(samples)
        assigned: Values = np.zeros(size)
        hits: Values = np.zeros(size)
        now = last.get(run.teachers[place].level)
        if now is not None:
            mine = now.teacher == place
            assigned = now.count(now.truth, size, mine)
            hits = now.count(now.truth, size, mine & now.correct)
        parts.append(
            pd.DataFrame(
                {
                    "teacher": categories(np.full(len(there), place), run.teacher_names),
                    "class": categories(there, run.classes),
                    "samples": answered[there],
                    "coverage": ratio(answered, samples)[there],
                    "accuracy": ratio(right, answered)[there],
                    "assigned_samples": assigned[there].astype(np.int64),
                    "assigned_accuracy": ratio(hits, assigned)[there],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _answered_by_class(run: Run) -> Iterator[tuple[Codes, Codes, Codes]]:
    """Yield for each teacher the samples of each class, those that it annotated, and those that it
    annotated correctly, each [C]. Raise `Unavailable` if no label is known."""
    size = len(run.classes)
    if run.sharded:
        require_rounds(run)
        table = pd.concat(run.answer_sums(number) for number in run.rounds)
        table = table.drop_duplicates(["teacher", "true_label"], keep="last")
        require_labels(np.ones(len(table), bool))
        teacher = codes(table["teacher"], run.teacher_names)
        truth = codes(table["true_label"], run.classes)
        for place in range(len(run.teachers)):
            found: Values = np.zeros((3, size), np.int64)
            mine = teacher == place
            columns = table.loc[mine, ["samples", "answered", "correct"]]
            found[:, truth[mine]] = columns.to_numpy(np.int64).T
            yield found[0], found[1], found[2]
        return
    truth = codes(run.train["true_label"], run.classes)
    known = truth >= 0
    require_labels(known)
    samples = np.bincount(truth[known], minlength=size)
    for name in run.teacher_names:
        label = run.annotated(name).label
        answered = np.bincount(truth[known & (label >= 0)], minlength=size)
        yield samples, answered, np.bincount(truth[known & (label == truth)], minlength=size)


def annotation_accuracy_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name the teacher and class with the least accurate annotations of the last round."""
    last = run.stages[f"round-{run.rounds[-1]}"]["teachers"] if run.rounds else []
    used = table[(table["assigned_samples"] > 0) & table["teacher"].isin(last)]
    if not len(used):
        return "None of these annotations has been assigned yet."
    enough = used[used["assigned_samples"] >= ENOUGH]
    worst = lowest_row(enough if len(enough) else used, "assigned_accuracy")
    return (
        f"The least accurate annotations of the last round are those of class {worst['class']} by "
        f"{worst['teacher']}: {percent(worst['assigned_accuracy'])} of "
        f"{int(worst['assigned_samples']):,} are correct."
    )


def draw_annotation_accuracy(table: pd.DataFrame) -> list[View]:
    """Draw the accuracy of each teacher on each class of student_train."""
    teachers, few_teachers = _most_and_least_accurate(table, "teacher", MOST_TEACHERS)
    classes, few_classes = _most_and_least_accurate(table, "class", MOST_CLASSES)
    part = table[table["teacher"].isin(teachers) & table["class"].isin(classes)]
    found = {(str(row["teacher"]), str(row["class"])): row for row in rows_of(part)}
    cells = [[_accuracy_cell(found.get((t, c)), t, c) for c in classes] for t in teachers]
    left_out = " ".join(filter(None, (few_teachers, few_classes)))
    return [Matrix(teachers, classes, cells, "teacher", "class", left_out=left_out)]


def _most_and_least_accurate(table: pd.DataFrame, by: str, most: int) -> tuple[list[str], str]:
    """Return at most `most` names with the highest and lowest accuracy, and what is left out."""
    names = names_in_order(table[by])
    if len(names) <= most:
        return names, ""
    right = (table["accuracy"] * table["samples"]).groupby(table[by].astype(str)).sum()
    means = right / table["samples"].groupby(table[by].astype(str)).sum()
    half = most // 2
    chosen = {*means.nlargest(half).index, *means.nsmallest(most - half).index}
    text = (
        f"Shown are the {half} most and {most - half} least accurate of "
        f"{words.plural(len(names), by)}."
    )
    return [name for name in names if name in chosen], text


def _accuracy_cell(row: Row | None, teacher: str, name: str) -> Cell:
    if row is None or words.missing(row["accuracy"]):
        return Cell(None, "", f"{teacher}, {name}: no sample")
    tooltip = (
        f"{teacher} is correct on {words.in_percent(row['accuracy'])} % of "
        f"{words.plural(int(row['samples']), 'sample')} of {name}"
    )
    if row.get("coverage", 1.0) < 1:
        tooltip += f" that it annotated ({percent(row['coverage'])} of all)"
    if not words.missing(row["assigned_samples"]) and row["assigned_samples"]:
        tooltip += (
            f", and on {words.in_percent(row['assigned_accuracy'])} % of the "
            f"{words.count(row['assigned_samples'])} assigned to it"
        )
    return Cell(float(row["accuracy"]), words.in_percent(row["accuracy"], 0), tooltip)


ANNOTATION_ACCURACY_FIGURE = Figure(
    "annotation_accuracy",
    "Accuracy of the annotations by teacher and class, %",
    annotation_accuracy_table,
    annotation_accuracy_sentence,
    draw_annotation_accuracy,
    "Over all samples of student_train that a teacher annotated, whether or not the annotation was "
    "assigned.",
)
