"""What to read from the tables by class and by domain."""

from collections.abc import Callable, Mapping

import pandas as pd

from cosup.analysis.base import least, most, row_of
from cosup.analysis.phrases import listed, percent, plural, points
from cosup.analysis.records import Run

__all__ = ["by_name", "supervision_domains"]

Tables = Mapping[str, pd.DataFrame]


def by_name(name: str) -> Callable[[Run, Tables], str]:
    """Tells of `classes` or `domains`: where the student gains, loses, and is below the ceiling."""

    def tell(run: Run, tables: Tables) -> str:
        table = tables[name]
        table = table[table["gained"].notna()]
        if not len(table):
            return ""
        best = most(table, "gained")
        text = (
            f"The student gains most over the floor in {best['name']} "
            f"({points(best['gained'], signed=True)}, to {percent(best['student'])})"
        )
        worse = table[table["gained"] < 0]
        if len(worse):
            low = least(worse, "gained")
            text += (
                f" and loses in {len(worse)} of {len(table)}, most in {low['name']} "
                f"({points(low['gained'], signed=True)})"
            )
        left = table[table["to_ceiling"] > 0]
        if len(left):
            far = most(left, "to_ceiling")
            text += f"; {far['name']} is farthest below the ceiling ({points(far['to_ceiling'])})"
        return f"{text}."

    return tell


def supervision_domains(run: Run, tables: Tables) -> str:
    """The means over the domains, and where the student gains most and least: over its zero-shot
    start where that was measured, else over the floor."""
    table = tables["supervision_domains"]
    shown = [("student", "student", "the student")]
    for kind, who, words in (
        ("control", "zero_shot", "zero-shot"),
        ("teacher", run.prepared["floor"]["teacher"], "the floor"),
    ):
        if len(_of(table, kind, who)):
            shown.append((kind, who, words))
    means = [
        f"{words} {percent(row_of(_of(table, kind, who), -1)['accuracy'])}"
        for kind, who, words in shown
    ]
    student = _of(table, "student", "student").iloc[:-1]
    text = f"Mean over the {plural(len(student), 'domain')}: {listed(means)}."
    if len(shown) == 1:
        return text
    kind, who, words = shown[1]
    gained = student["accuracy"].to_numpy() - _of(table, kind, who)["accuracy"].to_numpy()[:-1]
    student = student.assign(gained=gained)
    best, worst = most(student, "gained"), least(student, "gained")
    if best["gained"] == worst["gained"]:
        return f"{text} Over {words} it gains {points(best['gained'], signed=True)} in each."
    return (
        f"{text} Over {words} the student gains most in {best['domain']} "
        f"({points(best['gained'], signed=True)}, to {percent(best['accuracy'])}), least in "
        f"{worst['domain']} ({points(worst['gained'], signed=True)}, to "
        f"{percent(worst['accuracy'])})."
    )


def _of(table: pd.DataFrame, kind: str, who: str) -> pd.DataFrame:
    """The rows of one supervision, by domain and then the mean."""
    return table[(table["kind"] == kind) & (table["who"] == who)]
