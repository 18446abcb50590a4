"""Helpers for columns, arrays and rows of tables."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosup import words

__all__ = [
    "Bools",
    "Codes",
    "Doubles",
    "Row",
    "Singles",
    "Tables",
    "Values",
    "categorical",
    "categories",
    "codes",
    "count_groups",
    "highest_and_lowest",
    "highest_row",
    "largest",
    "lowest_row",
    "mean",
    "names_in_order",
    "ratio",
    "repeated",
    "row_at",
    "rows_of",
]

Codes = NDArray[np.int64]
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Values = NDArray[Any]
Row = Mapping[str, Any]
"""A row of a table, from columns to values."""
Tables = Mapping[str, pd.DataFrame]
"""Tables by name."""


def codes(column: "pd.Series[Any]", names: list[str]) -> Codes:
    """Return the indices [n] int64 of a categorical column in `names`; -1 if null or not there."""
    column = categorical(column)
    own = column.cat.categories
    place = {name: number for number, name in enumerate(names)}
    table = np.array([*(place.get(str(name), -1) for name in own), -1], dtype=np.int64)
    found: Codes = table[column.cat.codes.to_numpy()]
    return found


def categorical(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return a column as a categorical one, which those of a run are, unless others wrote it."""
    return column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")


def categories(index: NDArray[Any], names: Sequence[str]) -> "pd.Categorical[str]":
    """Convert indices in `names` (-1: missing) to a categorical with that order of categories."""
    return pd.Categorical.from_codes(np.asarray(index, dtype=np.int32), dtype=_dtype(tuple(names)))


@lru_cache(maxsize=64)
def _dtype(names: tuple[str, ...]) -> "pd.CategoricalDtype[str]":
    """Return the type with these categories, which takes longer to make than a short column."""
    return pd.CategoricalDtype(list(names))


def repeated(names: list[str], times: int) -> "pd.Categorical[str]":
    """Repeat each name `times` times in a row, as a categorical."""
    number = np.repeat(np.arange(len(names)), times)
    known = list(dict.fromkeys(names))
    place = np.array([known.index(name) for name in names] or [0])
    return categories(place[number], known)


def mean(values: Values, chosen: Bools | None = None) -> float:
    """Return the mean of all values, or of the chosen ones; nan if there are none."""
    part = values if chosen is None else values[chosen]
    return float(np.mean(part)) if len(part) else float("nan")


def ratio(part: Values, whole: Values) -> NDArray[np.float64]:
    """Return part / whole, nan where the whole is 0."""
    whole = np.asarray(whole, dtype=np.float64)
    part = np.broadcast_to(np.asarray(part, dtype=np.float64), whole.shape)
    found = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def count_groups(
    keys: Mapping[str, tuple[Codes, Sequence[str]]],
    means: Mapping[str, tuple[Values, Bools | None]] | None = None,
    samples: Codes | None = None,
) -> pd.DataFrame:
    """Count the samples of each combination of keys that occurs, and average values in it.

    keys: column -> (codes [N], names); samples with a code of -1 are left out. means: column ->
    (values [N], which of them count, or None for all); nan if none counts. samples: [N], how many
    each code is of (None: one). Rows are sorted by key.
    """
    whole = np.all([code >= 0 for code, _ in keys.values()], axis=0)
    joint = np.zeros(int(whole.sum()), dtype=np.int64)
    for code, names in keys.values():
        joint = joint * max(1, len(names)) + code[whole]
    found, place = np.unique(joint, return_inverse=True)
    columns: dict[str, Any] = {}
    rest = found
    for column, (_, names) in reversed(list(keys.items())):
        columns[column] = categories(rest % max(1, len(names)), names)
        rest = rest // max(1, len(names))
    table = pd.DataFrame({column: columns[column] for column in keys})
    number = np.ones(len(joint), np.int64) if samples is None else samples[whole]
    counted = np.bincount(place, weights=number, minlength=len(found))
    table["samples"] = counted.astype(np.int64)
    for column, (values, counts) in (means or {}).items():
        weight = number * (np.ones(len(joint)) if counts is None else counts[whole])
        total = np.bincount(place, weights=weight, minlength=len(found))
        hits = np.bincount(place, weights=weight * values[whole], minlength=len(found))
        table[column] = ratio(hits, total)
    return table


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows, each as a dict by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def row_at(table: pd.DataFrame, position: int) -> Row:
    """Return the row at a position."""
    return rows_of(table.iloc[[position]])[0]


def highest_row(table: pd.DataFrame, column: str) -> Row:
    """Return the first row with the largest number in a column."""
    return row_at(table, int(np.nanargmax(table[column].to_numpy(np.float64))))


def lowest_row(table: pd.DataFrame, column: str) -> Row:
    """Return the first row with the smallest number in a column."""
    return row_at(table, int(np.nanargmin(table[column].to_numpy(np.float64))))


def highest_and_lowest(
    table: pd.DataFrame, by: str, most: int, noun: str
) -> tuple[pd.DataFrame, str]:
    """Shorten a table to `most` rows: half of them highest in column `by`, half lowest.

    Returns the rows in their order, and a sentence on what is left out ("" if nothing is).
    """
    if len(table) <= most:
        return table, ""
    order = table[by].astype(float).rank(method="first", na_option="bottom")
    top = most // 2
    chosen = table[(order <= most - top) | (order > len(table) - top)]
    nouns = words.plural(top, noun).split(" ", 1)[1]
    high, low = ("most", "fewest") if by == "samples" else ("highest", "lowest")
    text = (
        f"Shown are the {top} {nouns} with the {high} {by.replace('_', ' ')} and the {most - top} "
        f"with the {low}, of {words.plural(len(table), noun)}. The table lists all."
    )
    return chosen, text


def names_in_order(values: "pd.Series[Any]") -> list[str]:
    """Return the names that occur: categories in their order, others in order of appearance."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        present = set(values.dropna().unique())
        return [str(name) for name in values.cat.categories if name in present]
    return [str(name) for name in values.dropna().unique()]


def largest(names: Sequence[str], weight: "pd.Series[float]", most: int) -> list[str]:
    """Return the `most` names with the largest weight, in the order given."""
    if len(names) <= most:
        return list(names)
    kept = set(weight.reindex(list(names)).fillna(0).nlargest(most).index)
    return [name for name in names if name in kept]
