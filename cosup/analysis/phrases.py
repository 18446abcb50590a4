"""Numbers in sentences."""

import math
from collections.abc import Sequence

__all__ = ["MINUS", "known", "listed", "percent", "plural", "points", "span"]

MINUS = "\N{MINUS SIGN}"


def known(*values: float | None) -> bool:
    """Is there a number in each place?"""
    return all(value is not None and not math.isnan(float(value)) for value in values)


def percent(share: float) -> str:
    """A fraction: `89.2 %`."""
    return f"{100 * share:.1f} %"


def points(difference: float, signed: bool = False) -> str:
    """A difference of fractions in percentage points: `1.0 point`, `+14.8 points`."""
    text = _hundredths(difference)
    sign = "+" if signed and difference > 0 and text != "0.0" else ""
    return f"{sign}{text} {'point' if text.lstrip(MINUS) == '1.0' else 'points'}"


def span(low: float, high: float) -> str:
    """The bounds of an interval, in percent or points: `12.3 to 17.7`."""
    return f"{_hundredths(low)} to {_hundredths(high)}"


def _hundredths(share: float) -> str:
    """Never `-0.0`."""
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", MINUS)


def plural(count: int, noun: str) -> str:
    """`1 sample`, `1,436 samples`, `3 classes`."""
    noun = noun if count == 1 else f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{count:,} {noun}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b and c`; `a, b and 4 more`."""
    shown = [str(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
