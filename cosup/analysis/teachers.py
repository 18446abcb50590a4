"""The hierarchy of teachers: their accuracy inside and outside their scopes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import Row, categories, highest_and_lowest, highest_row, mean, rows_of
from cosup.analysis.drawing import DotRow, Dots, Mark, Scale, View
from cosup.analysis.figure import Excerpt, Figure, require_test
from cosup.analysis.records import Run
from cosup.analysis.stages import RunTeacher
from cosup.metrics import Shares, shares
from cosup.seeds import seed_for
from cosup.words import percent

__all__ = ["TEACHERS_FIGURE", "scope_in_words"]

MOST_TREE, MOST_SCOPE = 40, 36


def teachers_table(run: Run) -> pd.DataFrame:
    """Make the table of teachers: a row per teacher of the hierarchy, level by level.

    Columns: teacher, level, kind, scope (in words), parent (the teacher of the level above whose
    scope contains this one's, or null), steps, coverage (the share of the test samples that it
    answers), accuracy (on these), low, high (its 95 % interval, bootstrap over groups),
    accuracy_inside and accuracy_outside of its scope with samples_inside and samples_outside (that
    it answers; null in few-shot runs, where the test classes are in no scope).
    """
    require_test(run)
    known = None if run.few_shot else run.holds(run.test)
    found = _measured(run)
    rows = []
    for place, teacher in enumerate(run.teachers):
        right = run.correct("teacher", teacher.name)
        answered = run.answered("teacher", teacher.name).label >= 0
        inside = None if known is None else known[answered, place]
        right = right[answered]
        rows.append(
            {
                "teacher": teacher.name,
                "level": teacher.level,
                "kind": teacher.kind,
                "scope": scope_in_words(teacher, run.classes, run.domains),
                "parent": _parent(teacher, run),
                "steps": teacher.steps,
                "coverage": mean(answered),
                "accuracy": mean(right),
                "low": found.low[place],
                "high": found.high[place],
                "accuracy_inside": np.nan if inside is None else mean(right, inside),
                "accuracy_outside": np.nan if inside is None else mean(right, ~inside),
                "samples_inside": None if inside is None else int(inside.sum()),
                "samples_outside": None if inside is None else int((~inside).sum()),
            }
        )
    table = pd.DataFrame(rows).astype({"samples_inside": "Int64", "samples_outside": "Int64"})
    names = run.teacher_names
    table["teacher"] = categories(np.arange(len(names)), names)
    place_of = {name: number for number, name in enumerate(names)}
    parents = [place_of.get(name, -1) for name in table["parent"]]
    table["parent"] = categories(np.array(parents), names)
    return table


def _measured(run: Run) -> Shares:
    """Return each teacher's accuracy where it answers, with the intervals of `summary.json`."""
    names = run.teacher_names
    right = np.stack([run.correct("teacher", name) for name in names], axis=1)
    counted = np.stack([run.answered("teacher", name).label >= 0 for name in names], axis=1)
    seed = seed_for(int(run.config["run"]["seed"]), "bootstrap")
    return shares(right, run.test["group"].to_numpy(), seed=seed, counted=counted)


def _parent(teacher: RunTeacher, run: Run) -> str | None:
    """Return the narrowest teacher of the level above whose scope contains this one's."""
    above = [other for other in run.teachers if other.level == teacher.level - 1]
    holding = [
        other
        for other in above
        if _within(teacher.classes, other.classes) and _within(teacher.domains, other.domains)
    ]
    sizes = [
        len(other.classes or run.classes) * len(other.domains or run.domains) for other in holding
    ]
    return holding[int(np.argmin(sizes))].name if holding else None


def _within(part: Sequence[int] | None, whole: Sequence[int] | None) -> bool:
    return whole is None or (part is not None and set(part) <= set(whole))


def scope_in_words(teacher: RunTeacher, classes: list[str], domains: list[str]) -> str:
    """Return a scope in words: `all`, `domain rot30`, `classes 0-4; domains photo and sketch`."""
    parts = []
    for indices, names, kind in (
        (teacher.classes, classes, "class"),
        (teacher.domains, domains, "domain"),
    ):
        if indices is not None:
            chosen = [names[index] for index in indices]
            parts.append(f"{words.noun(len(chosen), kind)} {words.ranged(chosen)}")
    return "; ".join(parts) or "all"


def teachers_sentence(run: Run, table: pd.DataFrame) -> str:
    """Compare the specialists inside and outside their scopes with the best generalist; tell what
    teachers with classes of their own give to others, and how teachers are calibrated."""
    return _accuracies_in_words(table) + _left_out(run) + _calibrated(run)


def _calibrated(run: Run) -> str:
    """Return the temperatures of teachers that are calibrated, if any is."""
    found = [(one.name, one.temperature) for one in run.teachers if one.temperature != 1]
    parts = [f"{temperature:.2f} of {name}" for name, temperature in found]
    text = (
        " Their logits are divided by temperatures fitted to held-out labels: "
        f"{words.listed(parts)} (above 1: surer than right)."
    )
    return text if parts else ""


def _left_out(run: Run) -> str:
    """Return how much of their probability teachers give to classes outside their scope, if any
    does."""
    index = run.files.annotations.index
    entries = index.read().get("student_train", {}) if index.exists() else {}
    found = {name: entry.get("facts", {}).get("outside") for name, entry in entries.items()}
    parts = [f"{percent(x)} of the probability of {name}" for name, x in found.items() if x]
    text = f" What is for classes outside the scope is left out: {words.listed(parts)}."
    return text if parts else ""


def _accuracies_in_words(table: pd.DataFrame) -> str:
    """Compare the specialists inside and outside their scopes with the best generalist."""
    special = table[table["samples_outside"].fillna(0) > 0]
    if not table["accuracy"].notna().any():
        return "No teacher answers a test sample."
    if not special["accuracy_inside"].notna().any():
        best = highest_row(table, "accuracy")
        return (
            f"The most accurate teacher is {best['teacher']} with {percent(best['accuracy'])}"
            f"{_answered(best)}."
        )
    inside, outside = special["accuracy_inside"].dropna(), special["accuracy_outside"].dropna()
    text = f"Specialists reach {_range(inside)} inside their scope and {_range(outside)} outside it"
    whole = table[(table["scope"] == "all") & table["accuracy"].notna()]
    if len(whole):
        best = highest_row(whole, "accuracy")
        text += (
            f"; the generalist {best['teacher']} reaches {percent(best['accuracy'])}"
            f"{_answered(best) or ' on all test samples'}"
        )
    return f"{text}."


def _answered(row: Row) -> str:
    """Return of how many samples an accuracy is, or "" if it is of all."""
    if row["coverage"] == 1:
        return ""
    return f" of the {percent(row['coverage'])} of the test samples that it answers"


def _range(values: "pd.Series[Any]") -> str:
    low, high = float(values.min()), float(values.max())
    return percent(low) if high - low < 0.0005 else f"{words.span(low, high)} %"


def draw_teachers(table: pd.DataFrame) -> list[View]:
    """Draw the hierarchy as a tree with each teacher's accuracy inside and outside its scope."""
    shown, left_out = highest_and_lowest(table, "accuracy_inside", MOST_TREE, "teacher")
    shown = _as_tree(shown)
    scale = Scale.of_shares([*shown["accuracy_inside"], *shown["accuracy_outside"]], zero=True)
    return [
        Dots(
            [_teacher_row(row, scale) for row in rows_of(shown)],
            scale.axis("accuracy, %"),
            "inside, %",
            "outside, %",
            legend=[("inside", "inside its scope"), ("outside", "outside its scope")],
            left_out=left_out,
        )
    ]


def _teacher_row(row: Row, scale: Scale) -> DotRow:
    name, inside, outside = str(row["teacher"]), row["accuracy_inside"], row["accuracy_outside"]
    marks, places = [], []
    for value, kind in ((outside, "outside"), (inside, "inside")):
        if not words.missing(value):
            places.append(scale.at(value))
            tooltip = f"{name}, {kind} its scope: {words.in_percent(value)} %"
            marks.append(Mark(places[-1], kind, tooltip))
    scope = "" if str(row["scope"]) == name else str(row["scope"])
    if row.get("coverage", 1.0) < 1:
        scope = f"{scope}, answers {percent(row['coverage'])}".lstrip(", ")
    return DotRow(
        name,
        marks,
        words.in_percent(inside),
        "no outside" if words.missing(outside) else words.in_percent(outside),
        note=scope if len(scope) <= MOST_SCOPE else f"{scope[: MOST_SCOPE - 1]}…",
        span=(min(places), max(places)) if len(places) == 2 else None,
        depth=min(int(row["depth"]), 6),
    )


def _as_tree(table: pd.DataFrame) -> pd.DataFrame:
    """Sort the teachers so that each follows its parent, and add the column `depth`.

    A teacher without a parent is placed below the generalist. Tables of runs made before parents
    were recorded are sorted by level.
    """
    if "parent" not in table:
        return table.sort_values("level", kind="stable").assign(depth=table["level"])
    names = set(table["teacher"].astype(str))
    everything = table[table["scope"].astype(str) == "all"]
    root = str(everything["teacher"].iloc[0]) if len(everything) else ""
    below: dict[str, list[int]] = {}
    for index, (name, parent) in enumerate(zip(table["teacher"], table["parent"], strict=True)):
        known = not words.missing(parent) and str(parent) in names
        above = str(parent) if known else "" if str(name) == root else root
        below.setdefault(above, []).append(index)
    order: list[tuple[int, int]] = []
    stack = [(index, 0) for index in reversed(below.get("", []))]
    while stack:
        index, depth = stack.pop()
        order.append((index, depth))
        name = str(table["teacher"].iloc[index])
        stack += [(child, depth + 1) for child in reversed(below.get(name, []))]
    return table.iloc[[index for index, _ in order]].assign(depth=[depth for _, depth in order])


TEACHERS_FIGURE = Figure(
    "teachers",
    "The hierarchy of teachers, inside and outside their scopes",
    teachers_table,
    teachers_sentence,
    draw_teachers,
    "A teacher is indented below the one whose scope contains its own. Outside its scope a teacher "
    "sees samples that it was not trained for. Samples on which it abstains do not count.",
    Excerpt(
        (
            *("teacher", "level", "scope", "coverage", "accuracy_inside", "accuracy_outside"),
            *("accuracy", "low", "high"),
        ),
        ends="accuracy",
    ),
)
