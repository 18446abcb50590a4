"""What became of the rows of annotation tables: how many belong to a sample of the data."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cosup import words
from cosup.analysis.arrays import Row, highest_and_lowest, rows_of
from cosup.analysis.drawing import BarRow, Bars, Segment, View
from cosup.analysis.figure import Excerpt, Figure, Unavailable
from cosup.analysis.records import Run
from cosup.words import count, plural

__all__ = ["SOURCE_TABLES_FIGURE"]

MOST_SOURCES = 24
NO_TABLES = "no teacher is an annotation table"


def source_tables(run: Run) -> pd.DataFrame:
    """Make the table of annotation tables: a row per teacher that is an annotator of one.

    Columns: source, rows (of its table), matched and unmatched (rows whose id is that of a sample
    of the data, or not), matched_by (the rule, in words), abstained (samples of the splits that
    teachers annotate on which it gives no answer), annotated (samples of these splits).
    """
    sources: Mapping[str, Mapping[str, Any]] = run.summary.get("sources") or {}
    columns = ["rows", "matched", "unmatched", "matched_by", "abstained", "annotated"]
    rows = [
        {"source": name, **{column: numbers[column] for column in columns}}
        for name, numbers in sources.items()
        if "matched" in numbers
    ]
    if not rows:
        raise Unavailable(NO_TABLES)
    return pd.DataFrame(rows, columns=["source", *columns])


def source_tables_sentence(run: Run, table: pd.DataFrame) -> str:
    """State how many rows belong to no sample, and which table has most of them."""
    rows, lost = int(table["rows"].sum()), int(table["unmatched"].sum())
    if not lost:
        return f"Each of {plural(rows, 'row')} of annotations belongs to a sample of the data."
    worst = max(rows_of(table), key=lambda row: float(row["unmatched"]) / float(row["rows"]))
    text = f"{count(lost)} of {plural(rows, 'row')} of annotations belong to no sample of the data"
    if len(table) > 1:
        share = words.percent(float(worst["unmatched"]) / float(worst["rows"]))
        text += f", most of {worst['source']} ({share} of its rows)"
    return f"{text}."


def draw_source_tables(table: pd.DataFrame) -> list[View]:
    """Draw a bar per table: rows that belong to a sample, and others."""
    shown, left_out = highest_and_lowest(table, "unmatched", MOST_SOURCES, "table")
    widest = float(shown["rows"].max()) or 1.0
    rows = [_bar(row, widest) for row in rows_of(shown)]
    legend = [("kept", "rows of a sample"), ("rejected", "rows of no sample of the data")]
    return [Bars(rows, "rows", "no answer, %", legend, left_out)]


def _bar(row: Row, widest: float) -> BarRow:
    segments = [
        Segment(float(row[name]) / widest, kind, f"{words.count(row[name])} {text}")
        for name, kind, text in (
            ("matched", "kept", f"rows of a sample, matched {row['matched_by']}"),
            ("unmatched", "rejected", "rows of no sample of the data"),
        )
        if row[name]
    ]
    note = f"{count(row['unmatched'])} of no sample" if row["unmatched"] else ""
    silent = words.in_percent(float(row["abstained"]) / max(1.0, float(row["annotated"])))
    return BarRow(str(row["source"]), segments, count(row["rows"]), silent, note)


SOURCE_TABLES_FIGURE = Figure(
    "source_tables",
    "Annotation tables",
    source_tables,
    source_tables_sentence,
    draw_source_tables,
    "A row belongs to a sample if its id does; `data.limit` may leave that sample out of the run. "
    "No answer: samples on which the annotator says nothing.",
    Excerpt(("source", "rows", "matched", "unmatched", "matched_by", "abstained")),
    optional=True,
)
