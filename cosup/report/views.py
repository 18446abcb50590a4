"""What the page draws: plain data, computed in Python and laid out by the templates.

A place on an axis, and a share of a bar, is in [0, 1]. `kind` is a CSS class and says what a mark
stands for (student, control, teacher, floor, ceiling, kept, rejected, ...); `say` is the sentence a
reader gets by pointing at it. `cut` says what was left out of a figure, in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    say: str = ""


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
    cut: str = ""
    caption: str = ""
    template: str = field(default="dots", init=False)


@dataclass(frozen=True)
class Segment:
    """A part of a bar, as a share of the full width."""

    share: float
    kind: str
    say: str = ""


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
    cut: str = ""
    caption: str = ""
    template: str = field(default="bars", init=False)


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix; value in [0, 1] gives its shade, None leaves it empty."""

    value: float | None
    text: str
    say: str


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
    cut: str = ""
    caption: str = ""
    row_kinds: Sequence[str] = ()
    column_kinds: Sequence[str] = ()
    phrases: bool = False
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
    cut: str = ""
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
    say: str
    tone: int


@dataclass(frozen=True)
class Flow:
    """Boxes in columns and the ribbons between them; height in pixels."""

    columns: Sequence[tuple[float, str]]
    nodes: Sequence[FlowNode]
    links: Sequence[Link]
    height: int
    cut: str = ""
    caption: str = ""
    template: str = field(default="flow", init=False)


@dataclass(frozen=True)
class Example:
    """A sample: its picture (data URI, or empty) and what was said of it, line by line."""

    sample: str
    picture: str
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Gallery:
    """Samples of one kind."""

    caption: str
    explanation: str
    examples: Sequence[Example]
    cut: str = ""
    template: str = field(default="gallery", init=False)


View = Dots | Bars | Matrix | Lines | Flow | Gallery
