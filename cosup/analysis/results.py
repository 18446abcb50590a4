"""The accuracy of student, controls and teachers on the test samples."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import (
    Bools,
    Row,
    highest_and_lowest,
    row_at,
    rows_of,
)
from cosup.analysis.drawing import DotRow, Dots, Mark, Reference, Scale, View
from cosup.analysis.figure import Excerpt, Figure, require_rounds, require_test
from cosup.analysis.records import Run
from cosup.controls import CONTROLS, control_title
from cosup.metrics import mcnemar, no_gap, pgr, shares
from cosup.seeds import seed_for
from cosup.words import listed, percent, plural

__all__ = ["OVERVIEW_FIGURE", "is_significant", "supervision_label"]

MOST_TEACHERS = 12


def supervision_label(kind: str, who: str) -> str:
    """Return the label of a row of the overview: a teacher's name or a kind of supervision."""
    if kind == "student":
        return "the co-supervised student"
    if kind == "control":
        return CONTROLS[who].label if who in CONTROLS else control_title(who)
    return who


def is_significant(row: Row) -> bool:
    """Return whether the 95 % interval of the student's gain over this row excludes 0."""
    return bool(row["gain_low"] > 0 or row["gain_high"] < 0)


def overview_table(run: Run) -> pd.DataFrame:
    """Make the overview: a row for the student, each control and each teacher.

    Columns: who, kind (student, control, teacher), accuracy (where it answers; null if it answers
    no sample), low, high (its 95 % interval), coverage (the share of the samples that it answers),
    pgr (null where the gap between floor and ceiling is within noise), gain (the student's accuracy
    minus this one, on the samples that both answer), gain_low, gain_high, p_value (exact McNemar
    test against the student on the same single samples). Intervals are bootstraps over groups
    (`cosup.metrics`) with the same draws as in `summary.json`.
    """
    require_rounds(run)
    require_test(run)
    entries = [(kind, who) for kind, who in run.predictors() if kind != "round"]
    right = np.stack([run.correct(kind, who) for kind, who in entries], axis=1)
    counted = np.stack([_counted(run, kind, who) for kind, who in entries], axis=1)
    seed = seed_for(int(run.config["run"]["seed"]), "bootstrap")
    few = run.prepared.get("review", {}).get("split") == "test"
    found = shares(right, run.test["group"].to_numpy(), seed=seed, counted=counted, few=few)
    student = right[:, 0]
    return pd.DataFrame(
        {
            "who": [who for _, who in entries],
            "kind": pd.Categorical(
                [kind for kind, _ in entries], categories=["student", "control", "teacher"]
            ),
            "accuracy": found.mean,
            "low": found.low,
            "high": found.high,
            "coverage": counted.mean(0),
            "pgr": _pgr(run, entries, right, seed),
            "gain": found.gain,
            "gain_low": found.gain_low,
            "gain_high": found.gain_high,
            "p_value": [
                mcnemar(int((there & student & ~other).sum()), int((other & ~student).sum()))
                for other, there in zip(right.T, counted.T, strict=True)
            ],
        }
    )


def _counted(run: Run, kind: str, who: str) -> Bools:
    """Return the samples that count: for a teacher, those that it answers."""
    label = run.answered(kind, who).label
    return label >= 0 if kind == "teacher" else np.ones(len(label), bool)


def _pgr(run: Run, entries: Sequence[tuple[str, str]], right: Bools, seed: int) -> list[float]:
    """Return the PGR of each entry on the samples that the floor answers.

    It is nan for teachers that do not answer all of these, and everywhere if
    `student.pgr_reason` of the summary says why.
    """
    nothing = [float("nan")] * len(entries)
    floor, ceiling = ("teacher", run.prepared["floor"]["teacher"]), ("control", "ceiling")
    if floor not in entries or ceiling not in entries:
        return nothing
    answered = _counted(run, *floor)
    bottom, top = (right[answered, entries.index(entry)] for entry in (floor, ceiling))
    groups = run.test["group"].to_numpy()[answered]
    if not answered.any() or no_gap(bottom, top, groups, seed) is not None:
        return nothing
    values = []
    for (kind, who), column in zip(entries, right.T, strict=True):
        compared = bool(_counted(run, kind, who)[answered].all())
        value = pgr(bottom.mean(), column[answered].mean(), top.mean()) if compared else None
        values.append(float("nan") if value is None else float(value))
    return values


def overview_sentence(run: Run, table: pd.DataFrame) -> str:
    """State how many controls the student beats, and which beat it."""
    student = row_at(table, 0)
    controls = rows_of(table[table["kind"] == "control"])
    accuracy = percent(student["accuracy"])
    if not controls:
        return f"The student reaches an accuracy of {accuracy}. The run has no controls."
    better = [row for row in controls if is_significant(row) and row["gain"] > 0]
    worse = [
        control_title(str(row["who"]))
        for row in controls
        if is_significant(row) and row["gain"] < 0
    ]
    below = f"{len(worse)} ({listed(worse)})" if worse else "none"
    return (
        f"With an accuracy of {accuracy} the student is significantly above {len(better)} of "
        f"{plural(len(controls), 'control')} and significantly below {below}."
    )


def draw_overview(table: pd.DataFrame) -> list[View]:
    """Draw every accuracy with its interval, highest first, and the student's lead."""
    teachers, left_out = highest_and_lowest(
        table[table["kind"] == "teacher"], "accuracy", MOST_TEACHERS, "teacher"
    )
    shown = pd.concat([table[table["kind"] != "teacher"], teachers])
    shown = shown.sort_values("accuracy", ascending=False, kind="stable")
    scale = Scale.of_shares([*shown["accuracy"], *shown["low"], *shown["high"]])
    legend = [
        ("student", "the co-supervised student"),
        ("control", "control: the same student under other supervision"),
        ("teacher", "single teacher"),
    ]
    return [
        Dots(
            [_overview_row(row, scale) for row in rows_of(shown)],
            scale.axis("accuracy, %"),
            "accuracy, %",
            "student's lead, points",
            _bounds(table, scale),
            legend,
            left_out,
        )
    ]


def _overview_row(row: Row, scale: Scale) -> DotRow:
    kind, who = str(row["kind"]), str(row["who"])
    name, accuracy = supervision_label(kind, who), words.in_percent(row["accuracy"])
    lead = ""
    if kind != "student":
        interval = words.interval(row["gain_low"], row["gain_high"], words.in_points)
        lead = f"{words.in_points(row['gain'])} {interval}"
    note, marks = "teacher" if kind == "teacher" else "", []
    if not words.missing(row["accuracy"]):
        marks = [Mark(scale.at(row["accuracy"]), kind, f"{name}: {accuracy} %")]
    if row.get("coverage", 1.0) < 1:
        note += f", answers {percent(row['coverage'])}"
    return DotRow(
        name,
        marks,
        accuracy,
        lead,
        note=note,
        span=scale.span(row["low"], row["high"]),
        kind=kind,
    )


def _bounds(table: pd.DataFrame, scale: Scale) -> list[Reference]:
    """Return lines at the best teacher and at the ceiling."""
    lines = []
    teachers = table.loc[table["kind"] == "teacher", "accuracy"].dropna()
    if len(teachers):
        lines.append(Reference(scale.at(float(teachers.max())), "floor"))
    ceiling = table.loc[table["who"].astype(str) == "ceiling", "accuracy"]
    if len(ceiling):
        lines.append(Reference(scale.at(float(ceiling.iloc[0])), "ceiling"))
    return lines


OVERVIEW_FIGURE = Figure(
    "overview",
    "Accuracy under each kind of supervision",
    overview_table,
    overview_sentence,
    draw_overview,
    "A teacher is measured on the test samples that it answers. Lines are 95 % confidence "
    "intervals (CI). The student's lead is paired on the same test samples; it is significant if "
    "its interval excludes 0. The intervals are not corrected for the number of comparisons. "
    "Dashed lines mark the best single teacher and the ceiling.",
    Excerpt(
        ("who", "kind", "accuracy", "low", "high", "coverage", "pgr", "gain", "p_value"),
        ends="accuracy",
    ),
)
