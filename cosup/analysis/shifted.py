"""Accuracy on shifted test sets (`data.shifted`), beside that on the test split."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from cosup import words
from cosup.analysis.arrays import Row, rows_of
from cosup.analysis.drawing import DotRow, Dots, Mark, Scale, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable, require_rounds
from cosup.analysis.records import Run
from cosup.analysis.results import overview_table, supervision_label
from cosup.data.shifted import shifted_split
from cosup.layout.folders import ShiftedFiles
from cosup.probabilities import ProbTable
from cosup.words import listed, percent, points

__all__ = ["SHIFTED_FIGURE", "TEST", "OnShifted"]

TEST = "test"
"""The name of the test split among the sets."""


class OnShifted(Run):
    """The records of a run, with the samples of one of its shifted sets as the test samples."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path)
        self.set_name = name

    @property
    def shifted_files(self) -> ShiftedFiles:
        """The files of the set."""
        return self.files.shifted(self.set_name)

    @cached_property
    def test(self) -> pd.DataFrame:
        """The samples of the set, in the order of all predictions."""
        return self.shifted_files.samples.read()

    def probs(self, kind: str, who: str) -> ProbTable:
        """Return the probabilities of one of the `predictors`, a row per sample of the set."""
        answers, samples, files = len(self.answers), len(self.test), self.shifted_files
        if kind == "teacher":
            split = shifted_split(self.set_name)
            return self.files.annotations.read(split, who, answers, samples)
        if kind == "control":
            return files.control(who).read(answers, samples)
        number = self.rounds[-1] if kind == "student" else int(who.removeprefix("round "))
        return files.round(number).read(answers, samples)


def shifted_table(run: Run) -> pd.DataFrame:
    """Make a row for the student, each control and each teacher on each set, `test` the first.

    Columns: set, samples, and those of `overview` on the samples of that set; lost: the accuracy on
    the test split minus this one (null where one of them is).
    """
    require_rounds(run)
    names = list(run.prepared.get("shifted", {}))
    if not names:
        raise Unavailable("data.shifted names no set")
    views: dict[str, Run] = {TEST: run} if run.measured else {}
    views |= {name: OnShifted(run.path, name) for name in names}
    parts = [
        overview_table(view).assign(set=name, samples=len(view.test))
        for name, view in views.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    on_test = table[table["set"] == TEST].set_index("who")["accuracy"]
    table["lost"] = table["who"].map(on_test).astype("float64") - table["accuracy"]
    return table[["set", "samples", *(c for c in table if c not in ("set", "samples"))]]


def shifted_sentence(run: Run, table: pd.DataFrame) -> str:
    """State how much the student loses on each set, and where it is below the best teacher."""
    rows = rows_of(table[(table["kind"] == "student") & (table["set"] != TEST)])
    each = [
        f"{percent(row['accuracy'])} on {row['set']}"
        + ("" if words.missing(row["lost"]) else f" ({points(-row['lost'], signed=True)})")
        for row in rows
    ]
    against = " (against the test split)" if run.measured else ""
    text = f"The student reaches {listed(each)}{against}."
    floor = run.prepared["floor"]["teacher"]
    leads = {
        str(row["set"]): row["gain"]
        for row in rows_of(table[(table["kind"] == "teacher") & (table["who"] == floor)])
        if row["set"] != TEST and not words.missing(row["gain"])
    }
    below = [name for name, gain in leads.items() if gain < 0]
    if not leads:
        return text
    where = f"below it on {listed(below)}" if below else "above it on all of them"
    return f"{text} Compared with the floor, {floor}, it is {where}."


def _draw(table: pd.DataFrame) -> list[View]:
    """Draw every set: its student, controls and teachers."""
    scale = Scale.of_shares([*table["accuracy"], *table["low"], *table["high"]])
    legend = [("student", "student"), ("control", "control"), ("teacher", "teacher")]
    rows = []
    for name in dict.fromkeys(table["set"]):
        part = table[table["set"] == name]
        rows.append(_row(str(name), part, scale))
    return [Dots(rows, scale.axis("accuracy, %"), "student, %", "loss, points", legend=legend)]


def _row(name: str, part: pd.DataFrame, scale: Scale) -> DotRow:
    """Return a row with a mark for every supervision. The span is the student's interval."""
    marks, student = [], None
    for row in sorted(rows_of(part), key=lambda row: row["kind"] == "student"):
        if not words.missing(row["accuracy"]):
            marks.append(_mark(row, scale))
        student = row
    assert student is not None, "the student comes last"
    lost = student["lost"]
    return DotRow(
        name,
        marks,
        words.in_percent(student["accuracy"]),
        "" if name == TEST else words.in_points(lost),
        note=words.count(student["samples"]),
        span=scale.span(student["low"], student["high"]),
        kind="student",
    )


def _mark(row: Row, scale: Scale) -> Mark:
    kind, who = str(row["kind"]), str(row["who"])
    text = f"{supervision_label(kind, who)}: {words.in_percent(row['accuracy'])} %"
    return Mark(scale.at(row["accuracy"]), kind, text)


SHIFTED_FIGURE = Figure(
    "shifted",
    "Accuracy on shifted test sets",
    shifted_table,
    shifted_sentence,
    _draw,
    "The sets of data.shifted, beside the test split. Lines are the 95 % confidence intervals of "
    "the student. The floor is the teacher that was chosen for the run, and not on these sets.",
    Excerpt(("set", "who", "samples", "accuracy", "low", "high", "pgr", "lost")),
    optional=True,
)
