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
"""(kind, words) of each mark that needs a word."""


@dataclass(frozen=True)
class Axis:
    """Ticks, as (place, text), and what is measured."""

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
    """A named row: marks, a line between two places (`span`), and numbers at the right."""

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
    """Stacked bars side by side."""

    rows: Sequence[BarRow]
    value_title: str
    extra_title: str = ""
    legend: Legend = ()
    left_out: str = ""
    caption: str = ""
    template: str = field(default="bars", init=False)


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix; value in [0, 1] gives its shade, None leaves it empty."""

    value: float | None
    text: str
    tooltip: str


@dataclass(frozen=True)
class Matrix:
    """A table; its cells are shaded by their value (`heat`), or a bar in them is (`measures`).

    row_kinds, column_kinds: the `kind` of each, where they have any: a `student` row is bold, a
    `mean` stands apart. phrases: the rows' names are so long that they wrap.
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
    """A line through (x, y) places, y upwards; with `dots`, its points are drawn too."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    dots: Sequence[Mark] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its curves; `bars` are columns (left, width, height) behind them."""

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    bars: Sequence[tuple[float, float, float]] = ()
    note: str = ""


@dataclass(frozen=True)
class Lines:
    """Panels beside each other."""

    panels: Sequence[Panel]
    legend: Legend = ()
    square: bool = False
    left_out: str = ""
    caption: str = ""
    template: str = field(default="lines", init=False)


@dataclass(frozen=True)
class FlowNode:
    """A box of a flow: left edge, top and height as shares of the drawing."""

    x: float
    y: float
    height: float
    name: str
    note: str
    side: str = "right"


@dataclass(frozen=True)
class Link:
    """A ribbon between two boxes as an SVG path in a 1000 x 1000 space."""

    path: str
    tooltip: str
    tone: int


@dataclass(frozen=True)
class Flow:
    """Boxes in columns and the ribbons between them; height in pixels."""

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
    """Samples of one kind."""

    caption: str
    explanation: str
    examples: Sequence[Example]
    left_out: str = ""
    template: str = field(default="gallery", init=False)


View = Dots | Bars | Matrix | Lines | Flow | Gallery


class Scale:
    """Maps values from [low, high] to [0, 1], with round ticks between.

    write: the text of a tick, given its value and the step from tick to tick.
    """

    def __init__(
        self, low: float, high: float, write: Callable[[float, float], str], most: int = 6
    ):
        self.low, self.high = low, high
        self._write, self._most = write, most

    @classmethod
    def of_shares(cls, values: Iterable[float | None], zero: bool = False) -> "Scale":
        """Fits fractions, drawn in percent; starts at 0 where asked for or where near it."""
        known = [float(v) for v in values if v is not None and not words.missing(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        step = _step(max(high - low, 0.05), 5)
        low = 0.0 if zero or low < 0.25 * high else math.floor(low / step + 1e-9) * step
        high = min(max(1.0, high), math.ceil(high / step - 1e-9) * step)
        high = max(high, min(1.0, low + 2 * step))  # also where all are the same
        low = min(low, max(0.0, high - 2 * step))
        return cls(low, high, lambda v, step: words.in_percent(v, 0 if step >= 0.00999 else 1))

    @classmethod
    def of_numbers(cls, values: Iterable[float], most: int = 5, zero: bool = False) -> "Scale":
        """Fits any numbers."""
        known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        low = min(low, 0.0) if zero or 0 < low < 0.3 * high else low
        step = _step(max(high - low, 1e-9), most - 1)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low, high, lambda v, step: f"{v:,.0f}" if step >= 0.9999 else f"{v:.3g}", most)

    def at(self, value: float) -> float:
        """The place of a value; what lies outside is put on the edge."""
        if self.high == self.low:
            return 0.5
        return round(min(1.0, max(0.0, (float(value) - self.low) / (self.high - self.low))), 4)

    def span(self, low: Any, high: Any) -> tuple[float, float] | None:
        """The places of an interval; None where a bound is missing."""
        if words.missing(low) or words.missing(high):
            return None
        return self.at(low), self.at(high)

    def axis(self, title: str = "") -> Axis:
        """The ticks."""
        step = _step(max(self.high - self.low, 1e-9), self._most - 1)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [index * step for index in range(first, last + 1)]
        return Axis([(self.at(value), self._write(value, step)) for value in values], title)


def _step(width: float, parts: int) -> float:
    """1, 2 or 5 times a power of ten, at most `parts` of it in width."""
    raw = width / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
