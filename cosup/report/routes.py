"""Which teacher a round sent which samples to: a picture for TensorBoard."""

import io
import textwrap
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cosup.analysis.rounds import HARD

MOST = 40
"""Teachers, and domains or classes, that a picture can hold."""
ROWS = "assigned_teacher"
COLUMNS = [ROWS, "assignment_weight", "domain", "true_label", "annotation"]
"""What is read of a decisions table."""
WORDS = {"domain": "domain", "true_label": "true class", "annotation": "annotated class"}
DPI = 110


@dataclass(frozen=True)
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


def routes_picture(decisions: pd.DataFrame, title: str) -> Picture:
    """A map of one round's assignment (its decisions table), for TensorBoard."""
    share = routes(decisions)[1]
    rows, columns = (min(size, MOST) for size in share.shape)
    size = (3.4 + 0.42 * columns, 1.8 + 0.3 * rows)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw_routes(figure.subplots(), decisions, title, width=int(9 * size[0]))
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, dpi=DPI, format="png")
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    return Picture(buffer.getvalue(), width, height)


def routes(decisions: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """By what samples are told apart, and the share [teachers, names] of each that a teacher got.

    By domain where there are several, else by true class, or, where that is unknown, by the class
    that was annotated. A column sums to 1, or to nan for a name without samples.
    """
    by = "domain" if decisions["domain"].nunique() > 1 else "true_label"
    if not decisions[by].notna().any():
        by = "annotation"
    teachers, names = (decisions[column].astype("category").cat for column in (ROWS, by))
    known = (names.codes >= 0).to_numpy()
    shape = (len(teachers.categories), len(names.categories))
    cells = teachers.codes[known].astype(int) * shape[1] + names.codes[known]
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    with np.errstate(invalid="ignore"):
        share = counts / counts.sum(0)
    return by, pd.DataFrame(share, teachers.categories, names.categories)


def draw_routes(axes: Axes, decisions: pd.DataFrame, title: str, width: int = 80) -> None:
    """Draw the map: a row per teacher, a column per name; of many, those with the most samples.

    title: which round it is; the whole title has lines of at most `width` characters.
    """
    by, share = routes(decisions)
    teachers = _largest(share.index, decisions[ROWS])
    names = _largest(share.columns, decisions[by])
    cut = len(teachers) < len(share.index) or len(names) < len(share.columns)
    share = share.loc[teachers, names]
    axes.imshow(share.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), [_short(name) for name in names], fontsize=8)
    axes.set_yticks(range(len(teachers)), [_short(name) for name in teachers], fontsize=8)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a dollar sign in a name is a dollar sign
    if len(names) > 6:
        for label in axes.get_xticklabels():
            label.set(rotation=60, ha="right", rotation_mode="anchor")
    if share.size <= 80:
        for (row, column), value in np.ndenumerate(share.to_numpy()):
            colour = "white" if value > 0.5 else "black"
            text = f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    more = f" (the {MOST} with the most samples)" if cut else ""
    axes.set_xlabel(WORDS[by] + more, fontsize=8)
    # A soft assignment is shown by the teacher with the most weight, and says so.
    soft = bool((decisions["assignment_weight"] < HARD).any())
    sent = "whose most weighted teacher is this" if soft else "sent to each teacher"
    text = f"share of each {WORDS[by]} {sent}, {title}"
    axes.set_title(textwrap.fill(text, width), fontsize=9, loc="left")


def _largest(names: pd.Index, of: "pd.Series[str]") -> list[str]:
    """At most `MOST` of the names, in their own order."""
    if len(names) <= MOST:
        return list(names)
    most = set(of.value_counts().index[:MOST])
    return [name for name in names if name in most]


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) <= 28 else f"{text[:18]}…{text[-9:]}"
