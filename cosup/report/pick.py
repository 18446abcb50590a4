"""Choosing what a figure shows where there is too much: the top and the bottom, in order."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from cosup.report.words import plural


def ends(frame: pd.DataFrame, by: str, most: int, noun: str) -> tuple[pd.DataFrame, str]:
    """At most so many rows, in their own order: half of them the highest in `by`, half the lowest;
    and a sentence that says so (empty where all are shown)."""
    if len(frame) <= most:
        return frame, ""
    order = frame[by].astype(float).rank(method="first", na_option="bottom")
    top = most // 2
    chosen = frame[(order <= most - top) | (order > len(frame) - top)]
    names = plural(top, noun).split(" ", 1)[1]
    high, low = ("most", "fewest") if by == "samples" else ("highest", "lowest")
    text = (
        f"Shown are the {top} {names} with the {high} {by.replace('_', ' ')} and the {most - top} "
        f"with the {low}, of {plural(len(frame), noun)}; the table has all."
    )
    return chosen, text


def in_order(values: "pd.Series[Any]") -> list[str]:
    """The names that occur: categories in their own order, others as they first come."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        present = set(values.dropna().unique())
        return [str(name) for name in values.cat.categories if name in present]
    return [str(name) for name in values.dropna().unique()]


def largest(names: Sequence[str], weight: "pd.Series[float]", most: int) -> list[str]:
    """The so many names of most weight, in the order given."""
    if len(names) <= most:
        return list(names)
    kept = set(weight.reindex(list(names)).fillna(0).nlargest(most).index)
    return [name for name in names if name in kept]
