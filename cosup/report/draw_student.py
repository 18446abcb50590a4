"""The student against each teacher, by class and domain, and where it errs."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.report import words
from cosup.report.axes import Scale
from cosup.report.pick import ends, in_order
from cosup.report.views import BarRow, Bars, Cell, DotRow, Dots, Mark, Matrix, Segment, View

MOST_TEACHERS = 16
MOST_CLASSES = 30
MOST_CONFUSED = 20

_PARTS = (
    ("both_right", "both", "both right"),
    ("student_only", "gain", "only the student right: it surpasses the teacher"),
    ("teacher_only", "loss", "only the teacher right"),
    ("same_error", "same", "both wrong alike: the student copies the error"),
    ("other_error", "other", "both wrong, differently"),
)
_WHERE = {
    "inside": "Inside the teacher's scope",
    "outside": "Outside the teacher's scope",
    "all": "Everywhere",
}


def draw_student_teachers(tables: dict[str, pd.DataFrame]) -> list[View]:
    """Student and teacher on the same samples: who is right, and which errors they share."""
    table = tables["student_teachers"]
    rows: list[BarRow] = []
    cuts = ""
    for where in ("inside", "outside") if (table["where"] == "inside").any() else ("all",):
        part = table[(table["where"] == where) & (table["samples"] > 0)]
        part, cut = ends(part, "agreement", MOST_TEACHERS, "teacher")
        cuts = cut or cuts
        for index, row in enumerate(rows_of(part)):
            rows.append(_against(row, _WHERE[where] if index == 0 else ""))
    legend = [(kind, text) for _, kind, text in _PARTS]
    return [Bars(rows, "agree, %", "samples", legend, cuts)]


def _against(row: dict[str, Any], heading: str) -> BarRow:
    segments = [
        Segment(float(row[name]), kind, f"{text}: {words.percent(row[name])} %")
        for name, kind, text in _PARTS
    ]
    agreement, samples = words.percent(row["agreement"]), words.count(row["samples"])
    return BarRow(str(row["teacher"]), segments, agreement, samples, heading=heading)


def by_name(name: str, noun: str) -> Callable[[dict[str, pd.DataFrame]], list[View]]:
    """Draws `classes` or `domains`: from the floor to the student, with the ceiling beyond."""

    def draw(tables: dict[str, pd.DataFrame]) -> list[View]:
        by = "student" if tables[name]["gained"].isna().all() else "gained"
        shown, cut = ends(tables[name], by, MOST_CLASSES, noun)
        numbers = ("floor", "student", "ceiling")
        scale = Scale.of_shares([v for column in numbers for v in shown[column]])
        rows = [_name_row(row, scale) for row in rows_of(shown)]
        legend = [("student", "student"), ("floor-tick", "floor: the best teacher alone")]
        if shown["ceiling"].notna().any():
            legend.append(("ceiling", "ceiling: trained on true labels"))
        axis = scale.axis("accuracy, %")
        return [Dots(rows, axis, "student, %", "gained, points", legend=legend, cut=cut)]

    return draw


def _name_row(row: dict[str, Any], scale: Scale) -> DotRow:
    kinds = (("floor", "floor-tick"), ("ceiling", "ceiling"), ("student", "student"))
    marks = [
        Mark(scale.at(row[column]), kind, f"{column}: {words.percent(row[column])} %")
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
        words.percent(row["student"]),
        words.points(row["gained"]),
        note=words.count(row["samples"]),
        span=span,
        kind=kind,
    )


def draw_confusion(tables: dict[str, pd.DataFrame]) -> list[View]:
    """Every pair of classes where they are few; else the pairs that are mixed up most."""
    table = tables["confusion"]
    classes = in_order(pd.Series(pd.concat([table["true"], table["predicted"]]).astype(str)))
    if isinstance(table["true"].dtype, pd.CategoricalDtype):
        order = [str(name) for name in table["true"].cat.categories]
        classes = [name for name in order if name in set(classes)]
    totals = table["samples"].groupby(table["true"].astype(str)).sum()
    if len(classes) > 20:
        return [_most_confused(table, totals)]
    found = {(str(r["true"]), str(r["predicted"])): int(r["samples"]) for r in rows_of(table)}
    rows = [name for name in classes if name in totals.index]
    cells = [[_confused(found, totals, t, p) for p in classes] for t in rows]
    return [Matrix(rows, classes, cells, "true class", "predicted class")]


def _confused(found: dict[tuple[str, str], int], totals: Any, true: str, predicted: str) -> Cell:
    samples = found.get((true, predicted), 0)
    share = samples / float(totals[true])
    say = (
        f"of {words.plural(int(totals[true]), 'sample')} of {true}, {words.count(samples)} "
        f"({words.percent(share)} %) called {predicted}"
    )
    return Cell(share, words.percent(share, 0) if share >= 0.005 else "", say)


def _most_confused(table: pd.DataFrame, totals: Any) -> Bars:
    errors = table[table["true"].astype(str) != table["predicted"].astype(str)]
    worst = errors.nlargest(MOST_CONFUSED, "samples")
    widest = float(worst["samples"].max()) if len(worst) else 1.0
    rows = []
    for row in rows_of(worst):
        share = row["samples"] / float(totals[str(row["true"])])
        say = f"{words.count(row['samples'])} samples"
        rows.append(
            BarRow(
                f"{row['true']} → {row['predicted']}",
                [Segment(row["samples"] / widest, "loss", say)],
                words.count(row["samples"]),
                words.percent(share),
            )
        )
    cut = f"Shown are the {len(rows)} largest confusions of {len(errors):,}; the table has all."
    return Bars(rows, "samples", "of the true class, %", cut=cut)
