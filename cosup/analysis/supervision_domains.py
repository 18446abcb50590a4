"""Accuracy by supervision and domain: student, controls and teachers, side by side."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import (
    Row,
    categories,
    codes,
    highest_and_lowest,
    highest_row,
    largest,
    lowest_row,
    names_in_order,
    ratio,
    repeated,
    row_at,
    rows_of,
)
from cosup.analysis.drawing import Cell, Matrix, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable, require_rounds, require_test
from cosup.analysis.records import Run
from cosup.analysis.results import supervision_label
from cosup.controls import control_title
from cosup.words import listed, percent, plural, points

__all__ = [
    "MEAN",
    "SUPERVISION_DOMAINS_FIGURE",
    "by_supervision",
    "largest_domains",
    "supervisions",
]

MEAN = "mean over domains"
"""The name of the row with the unweighted mean over the domains."""
MOST_ROWS, MOST_DOMAINS = 24, 23
Supervision = tuple[str, str]
"""(kind, who)"""


def supervision_domains_table(run: Run) -> pd.DataFrame:
    """Make a row per supervision and test domain, and one for its mean over the domains.

    Columns: who, kind (student, control, teacher; in the order of `overview`), domain, samples,
    accuracy (of a teacher, where it answers; null where it answers none). The mean ("mean over
    domains") weights the domains equally, as the "Avg" of papers on DomainNet; its samples are
    those of all domains. Domains without samples are left out.
    """
    require_rounds(run)
    require_test(run)
    names = list(run.prepared["measured_domains"])
    place = np.where(run.truth >= 0, codes(run.test["domain"], names), -1)
    samples = np.bincount(place[place >= 0], minlength=len(names))
    there = np.flatnonzero(samples)
    if not len(there):
        raise Unavailable("no true label of what measures is known")
    if len(there) == 1:
        raise Unavailable("what measures is of one domain alone")
    entries = [(kind, who) for kind, who in run.predictors() if kind != "round"]
    accuracy = np.empty((len(entries), len(there) + 1))
    for row, (kind, who) in enumerate(entries):
        counted = place >= 0
        if kind == "teacher":
            counted &= run.answered(kind, who).label >= 0
        right, whole = place[run.correct(kind, who) & counted], place[counted]
        accuracy[row, :-1] = ratio(
            np.bincount(right, minlength=len(names))[there],
            np.bincount(whole, minlength=len(names))[there],
        )
    accuracy[:, -1] = accuracy[:, :-1].mean(1)
    width = accuracy.shape[1]
    kinds = pd.CategoricalDtype(["student", "control", "teacher"])
    known = list(dict.fromkeys([*names, MEAN]))
    columns = [*there, known.index(MEAN)]
    return pd.DataFrame(
        {
            "who": repeated([who for _, who in entries], width),
            "kind": pd.Categorical(np.repeat([kind for kind, _ in entries], width), dtype=kinds),
            "domain": categories(np.tile(columns, len(entries)), known),
            "samples": np.tile([*samples[there], samples.sum()], len(entries)),
            "accuracy": accuracy.ravel(),
        }
    )


def supervision_domains_sentence(run: Run, table: pd.DataFrame) -> str:
    """State the means over the domains, and where the student gains most and least.

    The gain is over the zero-shot student if it was measured, else over the floor.
    """
    shown = [("student", "student", "the student")]
    for kind, who, text in (
        ("control", "zero_shot", control_title("zero_shot")),
        ("teacher", run.prepared["floor"]["teacher"], "the floor"),
    ):
        if len(_rows(table, kind, who)):
            shown.append((kind, who, text))
    means = [
        f"{text} {percent(row_at(_rows(table, kind, who), -1)['accuracy'])}"
        for kind, who, text in shown
    ]
    student = _rows(table, "student", "student").iloc[:-1]
    sentence = f"Mean over the {plural(len(student), 'domain')}: {listed(means)}."
    if len(shown) == 1:
        return sentence
    kind, who, text = shown[1]
    gained = student["accuracy"].to_numpy() - _rows(table, kind, who)["accuracy"].to_numpy()[:-1]
    student = student.assign(gained=gained)
    best, worst = highest_row(student, "gained"), lowest_row(student, "gained")
    if best["gained"] == worst["gained"]:
        return f"{sentence} Over {text} it gains {points(best['gained'], signed=True)} in each."
    return (
        f"{sentence} Over {text} the student gains most on {best['domain']} "
        f"({points(best['gained'], signed=True)}, to {percent(best['accuracy'])}) and least on "
        f"{worst['domain']} ({points(worst['gained'], signed=True)}, to "
        f"{percent(worst['accuracy'])})."
    )


def _rows(table: pd.DataFrame, kind: str, who: str) -> pd.DataFrame:
    """Return the rows of one supervision: its domains, then the mean."""
    return table[(table["kind"] == kind) & (table["who"] == who)]


def draw_supervision_domains(table: pd.DataFrame) -> list[View]:
    """Draw a row for each supervision and a column for each domain; the mean is last."""
    entries, few_rows = supervisions(table, MOST_ROWS)
    domains, few_domains = largest_domains(table, MOST_DOMAINS)
    found = by_supervision(table)
    columns = [*domains, MEAN]
    return [
        Matrix(
            [_name(*who) for who in entries],
            columns,
            [[_cell(found[who][name], who, name) for name in columns] for who in entries],
            "supervision",
            "domain",
            left_out=" ".join(filter(None, (few_rows, few_domains))),
            row_kinds=[kind for kind, _ in entries],
            column_kinds=[*[""] * len(domains), "mean"],
            long_names=True,
        )
    ]


def supervisions(table: pd.DataFrame, most: int) -> tuple[list[Supervision], str]:
    """Return at most `most` supervisions in the table's order, and what is left out.

    Of many teachers, those with the highest and lowest mean over the domains are shown.
    """
    means = table.drop_duplicates(["kind", "who"], keep="last")
    means = means.rename(columns={"accuracy": "mean_over_domains"})
    teacher = means["kind"] == "teacher"
    others = means[~teacher]
    room = max(2, most - len(others))
    teachers, left_out = highest_and_lowest(means[teacher], "mean_over_domains", room, "teacher")
    shown = pd.concat([others, teachers])
    return [(str(row["kind"]), str(row["who"])) for row in rows_of(shown)], left_out


def largest_domains(table: pd.DataFrame, most: int) -> tuple[list[str], str]:
    """Return at most `most` domains, those with the most samples, and what is left out."""
    part = table[table["domain"].astype(str) != MEAN].drop_duplicates("domain")
    names = names_in_order(part["domain"])
    if len(names) <= most:
        return names, ""
    samples = part.set_index(part["domain"].astype(str))["samples"].astype(float)
    left_out = (
        f"Shown are the {most} of {words.plural(len(names), 'domain')} with the most samples. "
        "The mean is over all."
    )
    return largest(names, samples, most), left_out


def by_supervision(table: pd.DataFrame) -> Mapping[Supervision, Mapping[str, Row]]:
    """Return the rows of the table by supervision, then by domain."""
    found: dict[Supervision, dict[str, Any]] = {}
    for row in rows_of(table):
        found.setdefault((str(row["kind"]), str(row["who"])), {})[str(row["domain"])] = row
    return found


def _name(kind: str, who: str) -> str:
    return f"teacher {who}" if kind == "teacher" else supervision_label(kind, who)


def _cell(row: Row, who: Supervision, name: str) -> Cell:
    accuracy, samples = (
        words.in_percent(row["accuracy"]),
        words.plural(int(row["samples"]), "sample"),
    )
    where = "the mean over domains" if name == MEAN else f"{samples} of {name}"
    share = None if words.missing(row["accuracy"]) else float(row["accuracy"])
    return Cell(share, accuracy, f"{_name(*who)}: {accuracy} % of {where}")


SUPERVISION_DOMAINS_FIGURE = Figure(
    "supervision_domains",
    "Accuracy by supervision and domain, %",
    supervision_domains_table,
    supervision_domains_sentence,
    draw_supervision_domains,
    "Accuracy on the test samples of each domain. The mean weights all domains equally, whatever "
    "their number of samples.",
    Excerpt(("who", "kind", "domain", "accuracy"), pivot="domain"),
)
