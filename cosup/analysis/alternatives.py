"""What could be used in place of the student: the sources, and controls that read no true label."""

from collections.abc import Mapping

from cosup.analysis.arrays import Row, Tables, rows_of
from cosup.analysis.records import Run
from cosup.analysis.results import is_significant
from cosup.controls import CONTROLS, control_title
from cosup.sources import ENOUGH
from cosup.words import known, percent

__all__ = [
    "TABLE",
    "Rows",
    "alternatives",
    "best_alternative",
    "best_control",
    "best_single_source",
    "how_to_use",
    "is_table",
    "overview_rows",
    "phrase",
    "to_use",
]

Rows = Mapping[tuple[str, str], Row]
"""Rows of the overview by (kind, who)."""

TABLE = "table"
"""The kind of a teacher that is a table of labels made elsewhere."""


def overview_rows(tables: Tables) -> Rows:
    """Return the rows of the overview by (kind, who); {} without one."""
    if "overview" not in tables:
        return {}
    return {(str(row["kind"]), str(row["who"])): row for row in rows_of(tables["overview"])}


def reads_no_truth(name: str) -> bool:
    """Return whether a control reads no label of student_train, so that it could be used."""
    control = CONTROLS.get(name)
    return control is not None and not control.is_bound and not control.reads_labels


def alternatives(rows: Rows) -> list[Row]:
    """Return the sources and the controls that read no true label of student_train.

    Sources that answer less than half of the test samples are left out.
    """
    found = [row for (kind, _), row in rows.items() if kind == "teacher" and answers_enough(row)]
    controls = ((who, row) for (kind, who), row in rows.items() if kind == "control")
    return [*found, *(row for who, row in controls if reads_no_truth(who))]


def answers_enough(row: Row) -> bool:
    """Return whether a source answers at least half of the samples."""
    return bool(row.get("coverage", 1.0) >= ENOUGH)


def best_single_source(rows: Rows) -> Row | None:
    """Return the most accurate teacher, of those that answer at least half of the test samples; of
    all teachers if none does."""
    found = [row for row in rows.values() if row["kind"] == "teacher" and known(row["accuracy"])]
    return max(found, key=lambda row: (answers_enough(row), _accuracy(row)), default=None)


def best_control(rows: Rows) -> Row | None:
    """Return the most accurate of the controls that read no true label of student_train."""
    found = [row for row in alternatives(rows) if row["kind"] == "control"]
    return max(found, key=_accuracy, default=None)


def best_alternative(run: Run, rows: Rows, for_new_images: bool = False) -> Row | None:
    """Return the most accurate of the sources and of the controls that read no true label.

    for_new_images: leave out tables of labels, which answer for their own images alone, and a team
    that they are in.
    """
    found = alternatives(rows)
    if for_new_images:
        found = [row for row in found if not is_table(run, row) and not _asks_teachers(row)]
    return max(found, key=_accuracy, default=None)


def to_use(run: Run, rows: Rows) -> Row:
    """Return the row of what to use: the student, or what is above it by more than noise."""
    best = best_alternative(run, rows)
    if best is None or best["gain"] >= 0 or not is_significant(best):
        return rows["student", "student"]
    return best


def is_table(run: Run, row: Row) -> bool:
    """Return whether a row of the overview is a table of labels made elsewhere."""
    kinds = {teacher.name: teacher.kind for teacher in run.teachers}
    return str(row["kind"]) == "teacher" and kinds.get(str(row["who"])) == TABLE


def _asks_teachers(row: Row) -> bool:
    """Return whether teachers have to answer when it predicts."""
    control = CONTROLS.get(str(row["who"])) if row["kind"] == "control" else None
    return control is not None and control.reads_student


def phrase(run: Run, row: Row) -> str:
    """Return a noun phrase for a row of the overview."""
    who = str(row["who"])
    if row["kind"] == "teacher":
        coverage = float(row.get("coverage", 1.0))
        part = f" for {percent(coverage)} of the samples" if coverage < 1 else ""
        return f"the labels of {who}{part}" if is_table(run, row) else f"the teacher {who}{part}"
    return CONTROLS[who].sentence if who in CONTROLS else control_title(who)


def how_to_use(run: Run, row: Row) -> str:
    """Return what to do to use a row of the overview, as the begin of a sentence."""
    if row["kind"] == "student":
        return "Use the student"
    control = CONTROLS.get(str(row["who"])) if row["kind"] == "control" else None
    return control.advice if control and control.advice else f"Use {phrase(run, row)}"


def _accuracy(row: Row) -> float:
    return float(row["accuracy"])
