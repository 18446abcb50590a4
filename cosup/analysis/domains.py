"""Accuracy by class and by domain: the student between floor and ceiling."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import (
    Bools,
    Row,
    Values,
    categories,
    codes,
    highest_and_lowest,
    highest_row,
    lowest_row,
    ratio,
    rows_of,
)
from cosup.analysis.decisions import round_decisions
from cosup.analysis.drawing import DotRow, Dots, Mark, Scale, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable, require_rounds, require_test
from cosup.analysis.records import Run
from cosup.words import percent, points

__all__ = ["CLASSES_FIGURE", "DOMAINS_FIGURE"]

MOST_NAMES = 30


def classes_table(run: Run) -> pd.DataFrame:
    """Make the table of classes: a row per test class (columns: `_by_name`)."""
    require_rounds(run)
    require_test(run)
    names = list(run.prepared["measured_classes"])
    return _by_name(run, "true_label", names, run.classes)


def domains_table(run: Run) -> pd.DataFrame:
    """Make the table of domains: a row per test domain (columns: `_by_name`)."""
    require_rounds(run)
    require_test(run)
    names = list(run.prepared["measured_domains"])
    if len(names) == 1:
        raise Unavailable("the data has one domain alone")
    return _by_name(run, "domain", names, run.domains)


def _by_name(run: Run, column: str, names: list[str], trained: list[str]) -> pd.DataFrame:
    """Make a row per name of a column of the test samples.

    Columns: name, samples, the accuracies student, floor (the best single teacher, where it
    answers), first_round and ceiling, gained (student - floor, on the samples that the floor
    answers), to_ceiling (ceiling - student), and for student_train in the last round
    assigned_accuracy (of the annotations) and kept (share). Values without samples are null;
    few-shot runs have the last two for the training classes.
    """
    place = codes(run.test[column], names)
    samples = np.bincount(place[place >= 0], minlength=len(names))

    def by(kind: str, who: str, there: Bools) -> Values:
        hits = run.correct(kind, who) & there
        whole = np.bincount(place[there], minlength=len(names))
        return ratio(np.bincount(place[hits], minlength=len(names)), whole)

    nothing = np.full(len(names), np.nan)
    everyone, best = place >= 0, run.prepared["floor"]["teacher"]
    ceiling = by("control", "ceiling", everyone) if "ceiling" in run.controls else nothing
    student = by("student", "student", everyone)
    answered = everyone & (run.answered("teacher", best).label >= 0)
    floor = by("teacher", best, answered)
    assigned, kept = _last_round(run, column, names, trained)
    table = pd.DataFrame(
        {
            "name": categories(np.arange(len(names)), names),
            "samples": samples,
            "student": student,
            "floor": floor,
            "first_round": by("round", f"round {run.rounds[0]}", everyone),
            "ceiling": ceiling,
            "gained": by("student", "student", answered) - floor,
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
    """Return accuracy of the assigned annotations and share kept in the last round, by name."""
    nothing = np.full(len(names), np.nan)
    if list(names) != list(trained):
        return nothing, nothing
    now = round_decisions(run, run.rounds[-1])
    place = now.truth if column == "true_label" else now.domain
    everyone, known, correct, kept = (
        now.count(place, len(names), chosen) for chosen in (None, now.known, now.correct, now.kept)
    )
    return ratio(correct, known), ratio(kept, everyone)


def _gain_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name where the student gains most, where it loses, and where it is below the ceiling."""
    table = table[table["gained"].notna()]
    if not len(table):
        return ""
    best = highest_row(table, "gained")
    text = (
        f"The student improves most over the floor on {best['name']} "
        f"({points(best['gained'], signed=True)}, to {percent(best['student'])})"
    )
    worse = table[table["gained"] < 0]
    if len(worse):
        low = lowest_row(worse, "gained")
        text += (
            f" and is worse on {len(worse)} of {len(table)}, most on {low['name']} "
            f"({points(low['gained'], signed=True)})"
        )
    left = table[table["to_ceiling"] > 0]
    if len(left):
        far = highest_row(left, "to_ceiling")
        text += f". It is farthest below the ceiling on {far['name']} ({points(far['to_ceiling'])})"
    return f"{text}."


def _draw_gains(noun: str) -> Callable[[pd.DataFrame], list[View]]:
    """Return a function that draws floor, student and ceiling of each name."""

    def draw(table: pd.DataFrame) -> list[View]:
        by = "student" if table["gained"].isna().all() else "gained"
        shown, left_out = highest_and_lowest(table, by, MOST_NAMES, noun)
        numbers = ("floor", "student", "ceiling")
        scale = Scale.of_shares([v for column in numbers for v in shown[column]])
        legend = [("student", "student"), ("floor-tick", "floor: the best single teacher")]
        if shown["ceiling"].notna().any():
            legend.append(("ceiling", "ceiling: trained on true labels"))
        return [
            Dots(
                [_gain_row(row, scale) for row in rows_of(shown)],
                scale.axis("accuracy, %"),
                "student, %",
                "gain, points",
                legend=legend,
                left_out=left_out,
            )
        ]

    return draw


def _gain_row(row: Row, scale: Scale) -> DotRow:
    kinds = (("floor", "floor-tick"), ("ceiling", "ceiling"), ("student", "student"))
    marks = [
        Mark(scale.at(row[column]), kind, f"{column}: {words.in_percent(row[column])} %")
        for column, kind in kinds
        if not words.missing(row[column])
    ]
    span, kind = None, ""
    if not words.missing(row["gained"]):
        span = (scale.at(row["floor"]), scale.at(row["student"]))
        kind = "gain" if row["gained"] >= 0 else "loss"
    return DotRow(
        str(row["name"]),
        marks,
        words.in_percent(row["student"]),
        words.in_points(row["gained"]),
        note=words.count(row["samples"]),
        span=span,
        kind=kind,
    )


_GAIN_COLUMNS = ("name", "samples", "floor", "student", "ceiling", "gained")

CLASSES_FIGURE = Figure(
    "classes",
    "Accuracy by class",
    classes_table,
    _gain_sentence,
    _draw_gains("class"),
    excerpt=Excerpt(_GAIN_COLUMNS, ends="student"),
)
DOMAINS_FIGURE = Figure(
    "domains",
    "Accuracy by domain",
    domains_table,
    _gain_sentence,
    _draw_gains("domain"),
    excerpt=Excerpt(_GAIN_COLUMNS),
)
