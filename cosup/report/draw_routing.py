"""Who was asked: the rounds, the assignment matrix, and each teacher's load."""

from typing import Any

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.report import words
from cosup.report.pick import ends, in_order, largest
from cosup.report.views import BarRow, Bars, Cell, Matrix, Segment, View

MOST_ROWS, MOST_COLUMNS = 24, 24
MOST_ROUNDS = 8
MOST_LOADS = 16
MOST_BARS = 48

_MEASURES = (
    ("teachers", "teachers to choose from", "count"),
    ("assignment_accuracy", "sent to a teacher who knows its kind, %", "share"),
    ("annotation_accuracy", "assigned annotations that are right, %", "share"),
    ("kept", "annotations kept, %", "share"),
    ("kept_precision", "of those kept, right, %", "share"),
    ("kept_recall", "of the right ones, kept, %", "share"),
    ("changed", "samples with another teacher than before, %", "share"),
    ("effective_teachers", "teachers in use, effectively", "number"),
    ("entropy", "entropy of the load, bits", "number"),
    ("student_accuracy", "student's accuracy after the round, %", "share"),
)


def draw_rounds(tables: dict[str, pd.DataFrame]) -> list[View]:
    """Each measure of routing and filtering, round by round."""
    table = tables["rounds"].reset_index(drop=True)
    cut = ""
    if len(table) > MOST_ROUNDS:
        half = MOST_ROUNDS // 2
        cut = f"Shown are the first and the last {half} of {len(table)} rounds."
        table = pd.concat([table.head(half), table.tail(half)])
    rows, cells = [], []
    for name, label, kind in _MEASURES:
        if name not in table or table[name].isna().all():
            continue
        rows.append(label)
        cells.append([_measure(label, row, name, kind) for row in rows_of(table)])
    columns = [f"round {row['round']}" for row in rows_of(table)]
    return [Matrix(rows, columns, cells, "measure", "round", style="measures", cut=cut)]


def _measure(label: str, row: dict[str, Any], name: str, kind: str) -> Cell:
    value = row[name]
    if kind == "share":
        text = words.percent(value)
    else:
        text = words.count(value) if kind == "count" else _decimals(value)
    share = float(value) if kind == "share" and not words.missing(value) else None
    return Cell(share, text, f"round {row['round']}, {label}: {text}")


def _decimals(value: Any) -> str:
    return words.NONE if words.missing(value) else f"{value:.2f}"


def draw_assignment(tables: dict[str, pd.DataFrame]) -> list[View]:
    """Which teacher got which domain or class: a matrix for each, of the last rounds that had a
    choice. A column sums to 100 %."""
    table = tables["assignment"]
    choice = table.groupby("round")["teacher"].nunique()
    rounds = [number for number in choice.index if choice[number] > 1][-2:]
    views: list[View] = []
    for number in reversed(rounds or list(choice.index[-1:])):
        for by in ("domain", "class"):
            part = table[(table["round"] == number) & (table["by"].astype(str) == by)]
            if part["name"].nunique() > 1 or (by == "class" and len(part)):
                views.append(_assignment(part, number, by))
    return views


def _assignment(part: pd.DataFrame, number: int, by: str) -> Matrix:
    teachers, names = in_order(part["teacher"]), in_order(part["name"])
    shown_teachers = largest(teachers, _sums(part, "teacher"), MOST_ROWS)
    shown_names = largest(names, _sums(part, "name"), MOST_COLUMNS)
    part = part[part["teacher"].isin(shown_teachers) & part["name"].isin(shown_names)]
    found = {(str(row["teacher"]), str(row["name"])): row for row in rows_of(part)}
    cells = [
        [_share_cell(found.get((teacher, name)), teacher, name) for name in shown_names]
        for teacher in shown_teachers
    ]
    cut = _cut(len(shown_teachers), len(teachers), "teacher", len(shown_names), len(names), by)
    return Matrix(
        shown_teachers,
        shown_names,
        cells,
        "teacher",
        by,
        cut=cut,
        caption=f"Round {number}: share of each {by} sent to each teacher, %",
    )


def _share_cell(row: Any, teacher: str, name: str) -> Cell:
    if row is None:
        return Cell(0.0, "", f"{teacher} got nothing of {name}")
    right = (
        ""
        if words.missing(row["annotation_accuracy"])
        else f", of which {words.percent(row['annotation_accuracy'])} % annotated right"
    )
    say = (
        f"{teacher} got {words.percent(row['share'])} % of {name} "
        f"({words.plural(int(row['samples']), 'sample')}{right})"
    )
    text = words.percent(row["share"], 0)
    return Cell(float(row["share"]), text if row["share"] >= 0.005 else "", say)


def draw_load(tables: dict[str, pd.DataFrame]) -> list[View]:
    """How many samples each teacher got in each round, kept and rejected."""
    table = tables["load"]
    many = table.groupby("round")["teacher"].nunique()
    single = [str(number) for number in many.index if many[number] == 1]
    rounds = [number for number in many.index if many[number] > 1]
    cuts = f"Left out is round {words.listed(single)}, where one teacher had all." if single else ""
    if not rounds:
        rounds, cuts = list(many.index), ""
    fit = MOST_BARS // min(MOST_LOADS, int(many[rounds].max()))
    if fit < len(rounds):
        cuts = f"Shown are the last {words.plural(fit, 'round')}. {cuts}"
    table = table[table["round"].isin(rounds[-fit:])]
    widest = float(table["share"].max()) or 1.0
    rows: list[BarRow] = []
    for number in rounds[-fit:]:
        shown, cut = ends(table[table["round"] == number], "samples", MOST_LOADS, "teacher")
        cuts = cuts if cut in cuts else f"{cut} {cuts}"
        for index, row in enumerate(rows_of(shown)):
            rows.append(_load_row(row, widest, f"Round {number}" if index == 0 else ""))
    legend = [("kept", "kept"), ("rejected", "rejected by a filter")]
    return [Bars(rows, "samples", "annotated right, %", legend, cuts.strip())]


def _load_row(row: Any, widest: float, heading: str) -> BarRow:
    samples, part = int(row["samples"]), float(row["kept"]) if row["samples"] else 0.0
    kept, full = round(part * samples), float(row["share"]) / widest
    segments = [
        Segment(full * part, "kept", f"kept: {words.count(kept)}"),
        Segment(full * (1 - part), "rejected", f"rejected: {words.count(samples - kept)}"),
    ]
    return BarRow(
        str(row["teacher"]),
        segments,
        words.count(samples),
        words.percent(row["annotation_accuracy"]),
        heading=heading,
    )


def _sums(part: pd.DataFrame, by: str) -> "pd.Series[float]":
    sums = part.groupby(by, observed=True)["samples"].sum().astype(float)
    return sums.set_axis(sums.index.astype(str))


def _cut(rows: int, all_rows: int, row: str, columns: int, all_columns: int, column: str) -> str:
    parts = []
    if rows < all_rows:
        parts.append(f"{rows} of {words.plural(all_rows, row)}")
    if columns < all_columns:
        parts.append(f"{columns} of {words.plural(all_columns, column)}")
    text = " and ".join(parts)
    return f"Shown are the {text} with the most samples; the table has all." if parts else ""
