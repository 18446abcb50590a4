"""A DataFrame as a table of the page or the terminal: what its columns are called, and each cell's
text. Fractions are shown in percent, and the column says so; the files keep the fractions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cosup.report import words

MOST_ROWS = 200
"""Rows of a table that the page shows; the file has all."""

_RAW: dict[str, Callable[[Any], str]] = {
    "p_value": words.p_value,
    "p_corrected": words.p_value,
    "entropy": lambda v: words.NONE if words.missing(v) else f"{v:.2f}",
    "effective_teachers": lambda v: words.NONE if words.missing(v) else f"{v:.2f}",
    "seconds": lambda v: words.NONE if words.missing(v) else f"{v:,.1f}",
    "images_per_second": words.number,
    "score": words.number,
    "value": words.number,
}
_POINTS = {
    *("gain", "gain_low", "gain_high", "gained", "to_ceiling"),
    *("difference", "difference_low", "difference_high"),
    *("pgr_difference", "pgr_difference_low", "pgr_difference_high"),
}
_NOT_COUNTED = {"round", "next_round", "level", "step", "rank", "seed"}
_UNITS = {"entropy": "bits"}


@dataclass(frozen=True)
class Column:
    """A column's heading; numeric ones stand right and are sorted as numbers."""

    label: str
    numeric: bool


@dataclass(frozen=True)
class TableView:
    """The first rows of a table as text. link: its file without the ending, or empty."""

    caption: str
    columns: list[Column]
    rows: list[list[str]]
    total: int
    link: str = ""


def table_view(
    frame: pd.DataFrame, caption: str, link: str = "", most: int = MOST_ROWS
) -> TableView:
    """The first rows of a table as the page shows them."""
    head = frame.head(most)
    written = [_column(str(name), head[name]) for name in head.columns]
    columns = [column for column, _ in written]
    rows = [list(row) for row in zip(*(texts for _, texts in written), strict=True)]
    return TableView(caption, columns, rows, len(frame), link)


def _column(name: str, values: "pd.Series[Any]") -> tuple[Column, list[str]]:
    label = name.replace("_", " ")
    if pd.api.types.is_bool_dtype(values):
        return Column(label, False), ["yes" if value else "no" for value in values]
    if not pd.api.types.is_numeric_dtype(values):
        texts = [words.NONE if words.missing(value) else str(value) for value in values]
        return Column(label, False), texts
    if name in _RAW:
        unit = f", {_UNITS[name]}" if name in _UNITS else ""
        return Column(label + unit, True), [_RAW[name](value) for value in values]
    if name in _POINTS:
        return Column(f"{label}, points", True), [words.points(value) for value in values]
    if pd.api.types.is_float_dtype(values):
        return Column(f"{label}, %", True), [words.percent(value) for value in values]
    write = str if name in _NOT_COUNTED else words.count
    texts = [words.NONE if words.missing(value) else write(int(value)) for value in values]
    return Column(label, True), texts
