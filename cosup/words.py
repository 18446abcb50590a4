"""Put numbers, plurals, lists, intervals and values into words, equally in every output.

Functions named `in_...` return a number without its unit, for tables and cells. Functions of table
values accept a missing value (None, NaN, pandas' NA) and return `NONE` for it.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cosup.secrets import mask

__all__ = [
    "MINUS",
    "NONE",
    "brief",
    "count",
    "decimal",
    "duration",
    "either",
    "in_percent",
    "in_points",
    "interval",
    "known",
    "listed",
    "literal",
    "missing",
    "noun",
    "number",
    "p_value",
    "percent",
    "plural",
    "points",
    "printable",
    "ranged",
    "shorten",
    "size",
    "span",
    "visible",
    "width",
]

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""Stands for a number that is missing."""

_LITERAL_WIDTH = 80
# C0 and C1 but for tab and line feed, and what turns the direction of writing round.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def missing(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas' NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA has no truth value
        return True


def known(*values: Any) -> bool:
    """Return whether no value is missing."""
    return not any(map(missing, values))


def percent(share: float) -> str:
    """Return a fraction in percent, with the sign: `89.2 %`."""
    return f"{in_percent(share)} %"


def in_percent(share: Any, digits: int = 1) -> str:
    """Return a fraction in percent, without the sign: `89.2`."""
    return NONE if missing(share) else decimal(100 * float(share), digits)


def points(difference: float, signed: bool = False) -> str:
    """Return a difference of fractions in percentage points: `1.0 point`, `+14.8 points`."""
    text = in_points(difference) if signed else in_percent(difference)
    return f"{text} {'point' if text.lstrip(MINUS + '+') == '1.0' else 'points'}"


def in_points(difference: Any, digits: int = 1) -> str:
    """Return a difference of fractions in percentage points, with its sign: `+14.8`, `0.0`."""
    text = in_percent(difference, digits)
    return f"+{text}" if text[0].isdecimal() and float(text) else text


def span(low: float, high: float) -> str:
    """Return the bounds of an interval, in percent or points: `12.3 to 17.7`."""
    return f"{in_percent(low)} to {in_percent(high)}"


def interval(low: Any, high: Any, write: Callable[[Any], str] = in_percent) -> str:
    """Return `[low, high]`, or an empty text if a bound is missing."""
    return "" if missing(low) or missing(high) else f"[{write(low)}, {write(high)}]"


def count(value: Any) -> str:
    """Return a whole number with its thousands separated: `1,436`."""
    return NONE if missing(value) else f"{int(value):,}"


def p_value(value: Any) -> str:
    """Return a p-value with three digits: `0.031`, `< 0.001`."""
    if missing(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: Any) -> str:
    """Return any other number with three or four significant digits."""
    if missing(value):
        return NONE
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 0.001:
        return f"{value:.2g}".replace("-", MINUS)
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}".replace("-", MINUS)


def size(nbytes: float) -> str:
    """Return a size in bytes in decimal units: `950 B`, `12 MB`, `3.4 GB`."""
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


def duration(seconds: float) -> str:
    """Return a time in a suitable unit: `90 seconds`, `45 minutes`, `2.5 hours`."""
    if seconds < 120:
        return plural(round(seconds), "second")
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def plural(count: int, singular: str) -> str:
    """Return a count with its noun: `1 sample`, `1,436 samples`, `3 classes`, `2 tries`."""
    return f"{count:,} {noun(count, singular)}"


def noun(count: int, singular: str) -> str:
    """Return the form of a regular noun for a count, without the count."""
    if count == 1:
        return singular
    if singular.endswith("s"):
        return f"{singular}es"
    if singular.endswith("y") and singular[-2] not in "aeiou":
        return f"{singular[:-1]}ies"
    return f"{singular}s"


def listed(names: Iterable[object], most: int = 5) -> str:
    """Return `a, b and c`, or `a, b and 4 more` where there are more than `most` names."""
    texts = [str(name) for name in names]
    if len(texts) > most:
        return f"{', '.join(texts[:most])} and {len(texts) - most} more"
    return _joined(texts, "and")


def ranged(names: Sequence[str], most: int = 5) -> str:
    """Return `0-4` for consecutive whole numbers, else as `listed`."""
    if len(names) > 2 and all(name.isascii() and name.isdigit() for name in names):
        first = int(names[0])
        if [int(name) for name in names] == list(range(first, first + len(names))):
            return f"{names[0]}-{names[-1]}"
    return listed(names, most)


def either(names: Iterable[object]) -> str:
    """Return `a, b or c`."""
    return _joined([str(name) for name in names], "or")


def literal(value: object) -> str:
    """Return a value in YAML notation, without secrets, cut to 80 characters; paths are not cut."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    text = mask(repr(value))
    if len(text) <= _LITERAL_WIDTH or (isinstance(value, str) and "/" in value):
        return text
    return f"{text[: _LITERAL_WIDTH - 3]}..."


def visible(text: str) -> str:
    """Return a text in which control characters are written as escapes (`\\u001b`).

    A terminal would obey them, and names may come from anybody. Line ends and tabs stay.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """Return a text with escapes (`\\x1b`, `\\udcff`) for the letters that cannot be printed."""
    if text.isprintable():
        return text
    letters = (a if a.isprintable() else a.encode("unicode_escape").decode() for a in text)
    return "".join(letters)


def shorten(text: str, most: int = 60) -> str:
    """Cut the middle out of a text that is longer than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def brief(text: str, most: int = 200) -> str:
    """Return a text as one line; of a long one its first sentences, or else its first words, of at
    most `most` characters."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    start = line[: most + 1]
    sentences = max(start.rfind(f"{end} ") for end in ".!?")
    if sentences >= most // 4:  # shorter ones are often abbreviations
        return start[: sentences + 1]
    return f"{start[: most - 3].rpartition(' ')[0] or start[: most - 3]}..."


def width(text: str) -> float:
    """Return the width of a text in letters; Chinese, Japanese and Korean letters count twice."""
    return sum(2.0 if unicodedata.east_asian_width(letter) in "WF" else 1.0 for letter in text)


def decimal(value: float, digits: int) -> str:
    """Return a number with so many decimals and a minus sign, but never as `-0.0`."""
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def _joined(texts: Sequence[str], last: str) -> str:
    *before, end = texts or [""]
    return f"{', '.join(before)} {last} {end}" if before else end
