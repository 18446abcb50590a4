"""The labels that a person should look at first, with their pictures and what each source said."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from cosup import words
from cosup.analysis.arrays import Codes, Row, categories, rows_of
from cosup.analysis.drawing import Example, Gallery, View
from cosup.analysis.figure import Figure, Unavailable, require_rounds
from cosup.analysis.labels import NOT_LABELLED
from cosup.analysis.records import Answers, Run
from cosup.analysis.said import answer_text, said_of, source_lines
from cosup.words import percent, plural

__all__ = ["MOST_LISTED", "RECORDED", "REVIEW_LIST_FIGURE", "first_labels", "review_list_table"]

MOST_LISTED = 24
"""Samples in the table and in the drawing."""
FIRST = (
    *("review_rank", "sample_id", "label", "probability", "runner_up", "runner_up_probability"),
    *("source", "teacher", "rejected_by"),
)
"""Columns of `labels.parquet` in the table."""
RECORDED = "first"
"""The table of a sharded run in the record of its labels, with the number of the shard."""


def review_list_table(run: Run) -> pd.DataFrame:
    """Make the table of the first samples of `labels.parquet` by review_rank, at most 24.

    Columns: review_rank, sample_id, label, probability, runner_up, runner_up_probability, source,
    teacher, rejected_by (all of labels.parquet), student_label and student_confidence (of the
    student of the last round), true_label, domain (null where unknown), sources (what each teacher
    of the last round says of it, as `said_of` writes it).
    """
    require_rounds(run)
    if run.sharded:
        return _recorded(run)
    if not run.files.labels.exists():
        raise Unavailable(NOT_LABELLED)
    labels = run.files.labels.read()
    rows: Codes = np.argsort(labels["review_rank"].to_numpy(np.int64))[:MOST_LISTED]
    known = run.train.iloc[rows].reset_index(drop=True)
    first = labels.iloc[rows].reset_index(drop=True)
    train = run.files.round(run.rounds[-1]).train.read(len(run.classes), len(run.train))
    student = Answers.of(train.take(torch.from_numpy(rows)))
    return first_labels(first, known, student, said_of(run, rows), run.classes)


def first_labels(
    labels: pd.DataFrame,
    known: pd.DataFrame,
    student: Answers,
    sources: Sequence[str],
    classes: Sequence[str],
) -> pd.DataFrame:
    """Make the table of some labels, with the columns of `review_list_table`.

    labels: rows of `labels.parquet`. known: true_label and domain of the same samples. student: its
    answers. sources: as `say` returns them.
    """
    table = labels[list(FIRST)].assign(
        student_label=categories(student.label, classes),
        student_confidence=student.confidence,
        true_label=known["true_label"],
        domain=known["domain"],
        sources=sources,
    )
    return table.astype(dict.fromkeys(("label", "runner_up", "student_label"), object))


def _recorded(run: Run) -> pd.DataFrame:
    """Return the table of a sharded run, from the record of its labels."""
    rows = run.stages.get("labels", {}).get(RECORDED)
    if not rows:
        raise Unavailable(NOT_LABELLED)
    return pd.DataFrame(rows).drop(columns="shard")


def review_list_sentence(run: Run, table: pd.DataFrame) -> str:
    """Say how sure these labels are, how many are wrong as far as known, and how to get all."""
    least, most = float(table["probability"].min()), float(table["probability"].max())
    known = table[table["true_label"].notna()]
    wrong = int((known["label"].astype(str) != known["true_label"].astype(str)).sum())
    measured = ""
    if len(known):
        were = "is" if wrong == 1 else "are"
        measured = f" Of {len(known)} whose true label is known, {wrong} {were} wrong."
    file = run.files.labels.path.name
    order = f" All samples are in this order by the column review_rank of {file}."
    return (
        f"The {plural(len(table), 'label')} to look at first: their probability is "
        f"{percent(least)} to {percent(most)}.{measured}{'' if run.sharded else order}"
    )


def draw_review_list(table: pd.DataFrame) -> list[View]:
    """Draw a gallery of the samples, the least sure first."""
    explanation = "The label with its probability, the runner-up, and what each source said."
    shown = [_example(row) for row in rows_of(table)]
    return [Gallery("The least sure labels", explanation, shown)]


def _example(row: Row) -> Example:
    lines = [("label", answer_text(row["label"], row["probability"]))]
    if float(row["runner_up_probability"]) > 0:
        lines.append(("runner-up", answer_text(row["runner_up"], row["runner_up_probability"])))
    if not words.missing(row["true_label"]):
        lines.append(("truth", str(row["true_label"])))
    if not words.missing(row["student_label"]):
        lines.append(("student", answer_text(row["student_label"], row["student_confidence"])))
    lines += source_lines(row["sources"])
    return Example(str(row["sample_id"]), lines)


REVIEW_LIST_FIGURE = Figure(
    "review_list",
    "Images to look at first",
    review_list_table,
    review_list_sentence,
    draw_review_list,
    "A label is unsure where the sources disagree, or where those that answer are often wrong.",
    optional=True,
)
