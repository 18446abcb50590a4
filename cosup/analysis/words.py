"""Numbers and names in words, the same on the page and on the terminal."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import pandas as pd

from cosup.analysis.phrases import MINUS as MINUS
from cosup.analysis.phrases import plural as plural

__all__ = [
    "MINUS",
    "count",
    "interval",
    "listed",
    "missing",
    "number",
    "p_value",
    "percent",
    "plural",
    "points",
    "shorten",
    "who_words",
    "width",
]

NONE = "\N{EN DASH}"
"""What stands for a number that there isn't."""

CONTROL_WORDS = {
    "zero_shot": "before any training (CLIP's zero-shot)",
    "best_teacher": "taught by the best teacher alone",
    "mean_ensemble": "taught by the mean of the teachers",
    "equal_budget_generalist": "taught by one generalist with all the specialists' budget",
    "self_training": "going on with its own labels",
    "random_assignment": "teachers drawn at random",
    "oracle_assignment": "teachers chosen by the truth (oracle)",
    "given_labels": "trained on the labels as given",
    "ceiling": "trained on the true labels (ceiling)",
}


def missing(value: Any) -> bool:
    """Is it None, NaN or pandas' NA?"""
    return bool(pd.isna(value))


def percent(value: Any, digits: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return NONE if missing(value) else f"{100 * float(value):.{digits}f}".replace("-", MINUS)


def points(value: Any) -> str:
    """A difference of fractions in percentage points, with its sign."""
    if missing(value):
        return NONE
    text = f"{100 * float(value):+.1f}"
    return text.replace("-", MINUS) if float(text) else "0.0"


def interval(low: Any, high: Any, write: Any = percent) -> str:
    """`[low, high]`, or nothing where there is none."""
    return "" if missing(low) or missing(high) else f"[{write(low)}, {write(high)}]"


def count(value: Any) -> str:
    """A whole number with thousands apart."""
    return NONE if missing(value) else f"{int(value):,}"


def p_value(value: Any) -> str:
    """A p-value as it is usually given."""
    if missing(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: Any) -> str:
    """Any other number, three or four figures of it."""
    if missing(value):
        return NONE
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 0.001:
        return f"{value:.2g}".replace("-", MINUS)
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}".replace("-", MINUS)


def shorten(text: str, most: int = 60) -> str:
    """A name that is too long keeps its ends."""
    if len(text) <= most:
        return text
    return f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def width(text: str) -> float:
    """About how many letters wide a text is: Chinese, Japanese and Korean ones take two."""
    return sum(2.0 if unicodedata.east_asian_width(letter) in "WF" else 1.0 for letter in text)


def who_words(kind: str, who: str) -> str:
    """A row of the overview: `teacher rot0`, or the student and how it was taught."""
    if kind == "student":
        return "the co-supervised student"
    if kind == "control":
        return CONTROL_WORDS.get(who, who.replace("_", " "))
    return who


def listed(names: Sequence[str], most: int = 8) -> str:
    """`a, b, c and 4 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
