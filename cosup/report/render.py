"""Templates and tables of the pages. All text that comes from a run is escaped."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cosup import __version__, words

__all__ = ["TableView", "render", "table_view"]


def render(template: str, **values: Any) -> str:
    """Render a template of `cosup/report/templates`. It also gets `css`, `js` and `version`."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cosup.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        place=_place,
        words=words.plural,
        short=words.shorten,
        name_width=_name_width,
        whole=_whole,
    )
    environment.globals.update(css=_asset("style.css"), js=_asset("page.js"), version=__version__)
    return environment


def _asset(name: str) -> Markup:
    """Return a file of the templates folder, not escaped."""
    return Markup(resources.files("cosup.report").joinpath("templates", name).read_text("utf-8"))


def _place(share: float) -> str:
    """Write a share as a CSS percentage."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def _whole(text: str) -> str:
    """Keep a number and its percent sign, and `95 % CI`, on one line."""
    return text.replace(" %", "\u00a0%").replace("% CI", "%\u00a0CI")


def _name_width(rows: Iterable[Any]) -> str:
    """Return the CSS width for the longest row name of a drawing; longer names are wrapped."""
    longest = 0.0
    for row in rows:
        name = words.width(words.shorten(row.name)) + 2.5 * getattr(row, "depth", 0)
        longest = max(longest, name + words.width(row.note) + 1 if row.note else name)
    return f"{min(21.0, max(6.0, 0.53 * longest)):.1f}rem"


MOST_ROWS = 200
"""Rows of a table that the page shows. The file has all."""

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
    """A column heading. Numeric columns are aligned right and sorted as numbers."""

    label: str
    numeric: bool


@dataclass(frozen=True)
class TableView:
    """The first rows of a table as text. link: its file without the suffix, or ""."""

    caption: str
    columns: list[Column]
    rows: list[list[str]]
    total: int
    link: str = ""


def table_view(
    frame: pd.DataFrame,
    caption: str,
    link: str = "",
    most: int = MOST_ROWS,
    verbatim: Collection[str] = (),
) -> TableView:
    """Write the first `most` rows of a table as text.

    Fractions are written in percent, as the heading states. verbatim: columns whose heading is
    their name, such as the name of a run.
    """
    head = frame.head(most)
    written = [_column(str(name), head[name]) for name in head.columns]
    columns = [
        Column(name + column.label[len(name) :], column.numeric) if name in verbatim else column
        for name, (column, _) in zip(head.columns, written, strict=True)
    ]
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
        return Column(f"{label}, points", True), [words.in_points(value) for value in values]
    if pd.api.types.is_float_dtype(values):
        return Column(f"{label}, %", True), [words.in_percent(value) for value in values]
    write = str if name in _NOT_COUNTED else words.count
    texts = [words.NONE if words.missing(value) else write(int(value)) for value in values]
    return Column(label, True), texts
