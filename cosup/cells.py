"""Write text into CSV files so that no spreadsheet takes it for a formula, and read it back.

A cell that begins with `=`, `+`, `-`, `@`, a tab or a line break gets a `'` before it, as OWASP
advises (https://owasp.org/www-community/attacks/CSV_Injection); so does one that begins so after
`'`, which makes the writing reversible. Numbers stay numbers, also as text.
"""

import csv
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FORMULA",
    "NUMBER",
    "as_cell",
    "as_cells",
    "from_cell",
    "from_cells",
    "single_values",
    "to_csv",
]

FORMULA = r"^'*[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]"
"""What a spreadsheet may take for a formula; the last four are the signs in full width. The
expression means the same in JavaScript."""
_FIRST = tuple("'=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
"""A number as text, which is none. It means the same in JavaScript too."""
_FORMULA, _NUMBER = re.compile(FORMULA), re.compile(NUMBER)


def as_cell(text: str) -> str:
    """Return the text as it is written in a cell."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_cell(cell: str) -> str:
    """Return the text of a cell, as the reverse of `as_cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def as_cells(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table with all its texts, and its columns' names, as they are written in cells."""
    return _changed(table, as_cell)


def from_cells(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table as it was before `as_cells`."""
    return _changed(table, from_cell)


def single_values(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table with one value in each cell, as JSON and Parquet may hold more.

    Lists and objects become JSON; bytes, and whole numbers of more than 64 bits, text. Raises
    `ValueError` for a column's name that is there twice.
    """
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"two columns are called '{twice[0]}'")
    changed = table
    for place in range(table.shape[1]):
        column = table.iloc[:, place]
        if column.dtype == object and any(map(_is_odd, column)):
            changed = table.copy(deep=False) if changed is table else changed
            changed.isetitem(place, [_as_text(one) if _is_odd(one) else one for one in column])
    return changed


def _is_odd(value: Any) -> bool:
    """Return whether a value is more than a cell of a table holds."""
    if isinstance(value, int):
        return value.bit_length() > 63
    return isinstance(value, bytes | list | tuple | dict) or getattr(value, "ndim", 0) > 0


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return json.dumps(value, default=lambda one: getattr(one, "tolist", lambda: str(one))())


def to_csv(table: "pd.DataFrame", header: bool = True) -> str:
    """Return a table as CSV, without its index, with the texts as cells. header: write the columns'
    names."""
    cells = as_cells(table)
    columns = (cells.iloc[:, place] for place in range(cells.shape[1]))
    # pandas leaves a carriage return without quotes, and readers take it for the end of a row.
    quoted = any(_texts(one).str.contains("\r", regex=False, na=False).any() for one in columns)
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL
    text: str = cells.to_csv(index=False, header=header, lineterminator="\n", quoting=quoting)
    return text


def _changed(table: "pd.DataFrame", change: Callable[[str], str]) -> "pd.DataFrame":
    changed = table.rename(columns=lambda name: change(name) if isinstance(name, str) else name)
    for place in range(table.shape[1]):
        column = table.iloc[:, place]
        if _texts(column).str.startswith(_FIRST, na=False).any():
            texts = [change(one) if isinstance(one, str) else one for one in column.tolist()]
            changed.isetitem(place, texts)
    return changed


def _texts(column: "pd.Series[Any]") -> "pd.Series[str]":
    """Return the texts of a column, for pandas to search; of one of categories, these."""
    import pandas as pd

    if column.dtype == "category":
        column = pd.Series(column.cat.categories)
    if column.dtype == object:
        texts = [one for one in column.tolist() if isinstance(one, str)]
        return pd.Series(texts, dtype=object)
    is_text = pd.api.types.is_string_dtype(column.dtype)
    return column if is_text else pd.Series([], dtype="str")
