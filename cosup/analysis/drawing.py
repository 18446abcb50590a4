"""Drawings as plain data: what the page lays out, and the axes that place values on it.

A drawing is computed in Python and laid out by the templates of `cosup/report`. A position on an
axis and a share of a bar are in [0, 1]. `kind` is the CSS class of a mark (student, control,
teacher, floor, ceiling, kept, rejected, ...). `tooltip` is the text shown when a reader points at
it. `left_out` states in words what a drawing does not show.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosup import words

__all__ = [
    "Axis",
    "BarRow",
    "Bars",
    "Cell",
    "Curve",
    "DotRow",
    "Dots",
    "Example",
    "Flow",
    "FlowNode",
    "Gallery",
    "Legend",
    "Lines",
    "Link",
    "Mark",
    "Matrix",
    "Panel",
    "Reference",
    "Scale",
    "Segment",
    "View",
]

Legend = Sequence[tuple[str, str]]
"""(kind, text) of each mark in the legend."""


@dataclass(frozen=True)
class Axis:
    """The ticks of an axis as (position, text), and its title."""

    ticks: Sequence[tuple[float, str]]
    title: str = ""


@dataclass(frozen=True)
class Mark:
    """A dot, ring or tick in a row."""

    at: float
    kind: str
    tooltip: str = ""


@dataclass(frozen=True)
class Reference:
    """A line across all rows."""

    at: float
    kind: str


@dataclass(frozen=True)
class DotRow:
    """A named row with marks, a line between two positions (`span`), and numbers at the right."""

    name: str
    marks: Sequence[Mark]
    value: str
    extra: str = ""
    note: str = ""
    span: tuple[float, float] | None = None
    kind: str = ""
    depth: int = 0
    heading: str = ""


@dataclass(frozen=True)
class Dots:
    """Rows of marks over one axis."""

    rows: Sequence[DotRow]
    axis: Axis
    value_title: str
    extra_title: str = ""
    references: Sequence[Reference] = ()
    legend: Legend = ()
    left_out: str = ""
    caption: str = ""
    template: str = field(default="dots", init=False)


@dataclass(frozen=True)
class Segment:
    """A part of a bar, as a share of the full width."""

    share: float
    kind: str
    tooltip: str = ""


@dataclass(frozen=True)
class BarRow:
    """A named bar; `heading` starts a group of bars."""

    name: str
    segments: Sequence[Segment]
    value: str
    extra: str = ""
    note: str = ""
    heading: str = ""


@dataclass(frozen=True)
class Bars:
    """Rows of stacked bars."""

    rows: Sequence[BarRow]
    value_title: str
    extra_title: str = ""
    legend: Legend = ()
    left_out: str = ""
    caption: str = ""
    template: str = field(default="bars", init=False)


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix. value: its shade in [0, 1]; None: no shade."""

    value: float | None
    text: str
    tooltip: str


@dataclass(frozen=True)
class Matrix:
    """A table whose cells are shaded by value (style `heat`) or contain a bar (style `measures`).

    row_kinds, column_kinds: the `kind` of each row and column, or nothing. long_names: the names of
    the rows may wrap.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    row_title: str
    column_title: str
    style: str = "heat"
    left_out: str = ""
    caption: str = ""
    row_kinds: Sequence[str] = ()
    column_kinds: Sequence[str] = ()
    long_names: bool = False
    template: str = field(default="matrix", init=False)


@dataclass(frozen=True)
class Curve:
    """A line through (x, y) positions, y upwards. dots: marks drawn on it."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    dots: Sequence[Mark] = ()


@dataclass(frozen=True)
class Panel:
    """A pair of axes with curves. bars: columns (left, width, height) behind the curves."""

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    bars: Sequence[tuple[float, float, float]] = ()
    note: str = ""


@dataclass(frozen=True)
class Lines:
    """Panels in a row."""

    panels: Sequence[Panel]
    legend: Legend = ()
    square: bool = False
    left_out: str = ""
    caption: str = ""
    template: str = field(default="lines", init=False)


@dataclass(frozen=True)
class FlowNode:
    """A box of a flow with left edge, top and height as shares of the drawing."""

    x: float
    y: float
    height: float
    name: str
    note: str
    side: str = "right"


@dataclass(frozen=True)
class Link:
    """A ribbon between two boxes, as an SVG path in a 1000 x 1000 space."""

    path: str
    tooltip: str
    tone: int


@dataclass(frozen=True)
class Flow:
    """Columns of boxes and the ribbons between them. height: in pixels."""

    columns: Sequence[tuple[float, str]]
    nodes: Sequence[FlowNode]
    links: Sequence[Link]
    height: int
    left_out: str = ""
    caption: str = ""
    template: str = field(default="flow", init=False)


@dataclass(frozen=True)
class Example:
    """A sample and its annotations as (name, text). The page adds the picture as a data URI."""

    sample: str
    lines: Sequence[tuple[str, str]]
    picture: str = ""


@dataclass(frozen=True)
class Gallery:
    """Examples of one kind."""

    caption: str
    explanation: str
    examples: Sequence[Example]
    left_out: str = ""
    template: str = field(default="gallery", init=False)


View = Dots | Bars | Matrix | Lines | Flow | Gallery


class Scale:
    """Map values in [low, high] to positions in [0, 1], with round ticks.

    write: returns the text of a tick from its value and the distance between ticks.
    """

    def __init__(
        self, low: float, high: float, write: Callable[[float, float], str], most: int = 6
    ):
        self.low, self.high = low, high
        self._write, self._most = write, most

    @classmethod
    def of_shares(cls, values: Iterable[float | None], zero: bool = False) -> "Scale":
        """Return a scale for fractions, in percent. It starts at 0 if `zero`, or if 0 is near."""
        known = [float(v) for v in values if v is not None and not words.missing(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        step = _step(max(high - low, 0.05), 5)
        low = 0.0 if zero or low < 0.25 * high else math.floor(low / step + 1e-9) * step
        high = min(max(1.0, high), math.ceil(high / step - 1e-9) * step)
        high = max(high, min(1.0, low + 2 * step))  # also if all values are equal
        low = min(low, max(0.0, high - 2 * step))
        return cls(low, high, lambda v, step: words.in_percent(v, 0 if step >= 0.00999 else 1))

    @classmethod
    def of_numbers(cls, values: Iterable[float], most: int = 5, zero: bool = False) -> "Scale":
        """Return a scale for any numbers. It starts at 0 if `zero`, or if 0 is near."""
        known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        low = min(low, 0.0) if zero or 0 < low < 0.3 * high else low
        step = _step(max(high - low, 1e-9), most - 1)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step

        def write(value: float, step: float) -> str:
            text = f"{value:,.0f}" if step >= 0.9999 else f"{value:.3g}"
            return text.replace("-", words.MINUS)

        return cls(low, high, write, most)

    def at(self, value: float) -> float:
        """Return the position of a value; values outside are placed on the edge."""
        if self.high == self.low:
            return 0.5
        return round(min(1.0, max(0.0, (float(value) - self.low) / (self.high - self.low))), 4)

    def span(self, low: Any, high: Any) -> tuple[float, float] | None:
        """Return the positions of an interval; None if a bound is missing."""
        if words.missing(low) or words.missing(high):
            return None
        return self.at(low), self.at(high)

    def axis(self, title: str = "") -> Axis:
        """Return the axis with its ticks."""
        step = _step(max(self.high - self.low, 1e-9), self._most - 1)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [index * step for index in range(first, last + 1)]
        return Axis([(self.at(value), self._write(value, step)) for value in values], title)


def _step(width: float, parts: int) -> float:
    """Return 1, 2 or 5 times a power of ten, so that about `parts` of it fit in width."""
    raw = width / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
