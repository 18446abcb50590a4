"""What was said and what was thrown away: annotations by teacher and class, and the filters."""

from typing import Any

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.report import words
from cosup.report.pick import in_order
from cosup.report.views import BarRow, Bars, Cell, Matrix, Segment, View

MOST_TEACHERS, MOST_CLASSES, MOST_ROUNDS = 24, 24, 6


def draw_annotation_accuracy(tables: dict[str, pd.DataFrame]) -> list[View]:
    """How often each teacher is right about each class, on all of student_train."""
    table = tables["annotation_accuracy"]
    teachers, cut_teachers = _ends(table, "teacher", MOST_TEACHERS)
    classes, cut_classes = _ends(table, "class", MOST_CLASSES)
    part = table[table["teacher"].isin(teachers) & table["class"].isin(classes)]
    found = {(str(row["teacher"]), str(row["class"])): row for row in rows_of(part)}
    cells = [[_cell(found.get((t, c)), t, c) for c in classes] for t in teachers]
    cut = " ".join(filter(None, (cut_teachers, cut_classes)))
    return [Matrix(teachers, classes, cells, "teacher", "class", cut=cut)]


def _ends(table: pd.DataFrame, by: str, most: int) -> tuple[list[str], str]:
    """The names with the highest and the lowest accuracy over all samples, where there are many."""
    names = in_order(table[by])
    if len(names) <= most:
        return names, ""
    right = (table["accuracy"] * table["samples"]).groupby(table[by].astype(str)).sum()
    mean = right / table["samples"].groupby(table[by].astype(str)).sum()
    half = most // 2
    chosen = {*mean.nlargest(half).index, *mean.nsmallest(most - half).index}
    text = f"Of {words.plural(len(names), by)}, the {half} most and {most - half} least accurate."
    return [name for name in names if name in chosen], text


def _cell(row: Any, teacher: str, name: str) -> Cell:
    if row is None or words.missing(row["accuracy"]):
        return Cell(None, "", f"{teacher}, {name}: no sample")
    say = (
        f"{teacher} is right on {words.percent(row['accuracy'])} % of "
        f"{words.plural(int(row['samples']), 'sample')} of {name}"
    )
    if not words.missing(row["assigned_samples"]) and row["assigned_samples"]:
        say += (
            f"; of {words.plural(int(row['assigned_samples']), 'sample')} assigned to it, "
            f"on {words.percent(row['assigned_accuracy'])} %"
        )
    return Cell(float(row["accuracy"]), words.percent(row["accuracy"], 0), say)


def draw_filters(tables: dict[str, pd.DataFrame]) -> list[View]:
    """What each filter rejected in each round, parted into wrong and right annotations."""
    table = tables["filters"]
    widest = float(table["share"].max()) or 1.0
    whole = table["filter"].astype(str) == "all"
    idle = [str(number) for number in table.loc[whole & (table["rejected"] == 0), "round"]]
    rounds = [number for number in table["round"].unique() if str(number) not in idle]
    rows = []
    for number in rounds[-MOST_ROUNDS:]:
        part = table[table["round"] == number].sort_values("filter", key=lambda f: f != "all")
        part = part[(part["rejected"] > 0) | (part["filter"] != "abstained")]
        for index, row in enumerate(rows_of(part)):
            rows.append(_filter_row(row, widest, f"Round {number}" if index == 0 else ""))
    cut = f"Nothing was rejected in round {words.listed(idle)}." if idle else ""
    parted = bool(table["precision"].notna().any())
    legend = [("wrong", "wrong annotations rejected"), ("right", "right ones rejected")]
    extra = "of the wrong, caught, %"
    if not parted:
        legend, extra = [("part", "rejected")], ""
    return [Bars(rows, "rejected, %", extra, legend, cut)]


def _filter_row(row: dict[str, Any], widest: float, heading: str) -> BarRow:
    share, precision = float(row["share"]) / widest, row["precision"]
    name = str(row["filter"])
    name = "all filters" if name == "all" else name.replace("_", " ")
    if words.missing(precision):
        segments = [Segment(share, "part", f"rejected: {words.count(row['rejected'])}")]
    else:
        wrong = round(float(precision) * float(row["rejected"]))
        segments = [
            Segment(share * precision, "wrong", f"wrong: {words.count(wrong)}"),
            Segment(
                share * (1 - precision), "right", f"right: {words.count(row['rejected'] - wrong)}"
            ),
        ]
    noise = row.get("noise_caught")
    note = "" if words.missing(noise) else f"{words.percent(noise)} % of the wrong labels"
    return BarRow(
        name,
        segments,
        words.percent(row["share"]),
        "" if words.missing(row["recall"]) else words.percent(row["recall"]),
        note,
        heading,
    )
