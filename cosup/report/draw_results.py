"""What each supervision reached, and the teachers inside and outside their scopes."""

from typing import Any

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.report import words
from cosup.report.axes import Scale
from cosup.report.pick import ends
from cosup.report.views import DotRow, Dots, Mark, Reference, View

MOST_TEACHERS = 12
MOST_NODES = 40
MOST_SCOPE = 36


def draw_overview(tables: dict[str, pd.DataFrame]) -> list[View]:
    """Everybody's test accuracy with its interval, the best first, and the student's lead."""
    table = tables["overview"]
    teachers, cut = ends(table[table["kind"] == "teacher"], "accuracy", MOST_TEACHERS, "teacher")
    shown = pd.concat([table[table["kind"] != "teacher"], teachers])
    shown = shown.sort_values("accuracy", ascending=False, kind="stable")
    scale = Scale.of_shares([*shown["accuracy"], *shown["low"], *shown["high"]])
    rows = []
    for row in rows_of(shown):
        kind, who = str(row["kind"]), str(row["who"])
        lead = ""
        if kind != "student":
            span = words.interval(row["gain_low"], row["gain_high"], words.points)
            lead = f"{words.points(row['gain'])} {span}"
        say = f"{words.who_words(kind, who)}: {words.percent(row['accuracy'])} %"
        rows.append(
            DotRow(
                words.who_words(kind, who),
                [Mark(scale.at(row["accuracy"]), kind, say)],
                words.percent(row["accuracy"]),
                lead,
                note="teacher" if kind == "teacher" else "",
                span=scale.span(row["low"], row["high"]),
                kind=kind,
            )
        )
    legend = [
        ("student", "the co-supervised student"),
        ("control", "control: the same student, supervised otherwise"),
        ("teacher", "teacher alone"),
    ]
    return [
        Dots(
            rows,
            scale.axis("accuracy, %"),
            "accuracy, %",
            "student's lead, points",
            _bounds(table, scale),
            legend,
            cut,
        )
    ]


def _bounds(table: pd.DataFrame, scale: Scale) -> list[Reference]:
    """Lines at the best teacher and at the ceiling."""
    lines = []
    teachers = table.loc[table["kind"] == "teacher", "accuracy"]
    if len(teachers):
        lines.append(Reference(scale.at(float(teachers.max())), "floor"))
    ceiling = table.loc[table["who"].astype(str) == "ceiling", "accuracy"]
    if len(ceiling):
        lines.append(Reference(scale.at(float(ceiling.iloc[0])), "ceiling"))
    return lines


def draw_teachers(tables: dict[str, pd.DataFrame]) -> list[View]:
    """The hierarchy as a tree: each teacher's accuracy inside and outside its scope."""
    table = tables["teachers"]
    shown, cut = ends(table, "accuracy_inside", MOST_NODES, "teacher")
    shown = _as_tree(shown)
    scale = Scale.of_shares([*shown["accuracy_inside"], *shown["accuracy_outside"]], zero=True)
    rows = [_teacher_row(row, scale) for row in rows_of(shown)]
    legend = [("inside", "inside its scope"), ("outside", "outside its scope")]
    return [
        Dots(rows, scale.axis("accuracy, %"), "inside, %", "outside, %", legend=legend, cut=cut)
    ]


def _teacher_row(row: dict[str, Any], scale: Scale) -> DotRow:
    name, inside, outside = str(row["teacher"]), row["accuracy_inside"], row["accuracy_outside"]
    marks, places = [], []
    for value, kind in ((outside, "outside"), (inside, "inside")):
        if not words.missing(value):
            places.append(scale.at(value))
            say = f"{name}, {kind} its scope: {words.percent(value)} %"
            marks.append(Mark(places[-1], kind, say))
    scope = "" if str(row["scope"]) == name else str(row["scope"])
    return DotRow(
        name,
        marks,
        words.percent(inside),
        "no outside" if words.missing(outside) else words.percent(outside),
        note=scope if len(scope) <= MOST_SCOPE else f"{scope[: MOST_SCOPE - 1]}…",
        span=(min(places), max(places)) if len(places) == 2 else None,
        depth=min(int(row["depth"]), 6),
    )


def _as_tree(table: pd.DataFrame) -> pd.DataFrame:
    """Each teacher below the one whose scope holds its own, where the table names it; else the
    levels in order. Who has no such parent is below the generalist. Adds `depth`."""
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
